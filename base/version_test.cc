// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/version.h"

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

using ::testing::HasSubstr;

// Semantic versioning, without a suffix: what a Debian package and a module of
// Bazel's registry take as well.
TEST(VersionTest, IsThreeNumbers) {
  const std::vector<std::string> parts = absl::StrSplit(kVersion, '.');
  ASSERT_EQ(parts.size(), 3u);
  for (const std::string& part : parts) {
    int number = -1;
    EXPECT_TRUE(absl::SimpleAtoi(part, &number)) << part;
    EXPECT_EQ(absl::StrCat(number), part) << "a leading zero";
  }
}

TEST(VersionTest, TheModuleIsOfTheSameVersion) {
  std::ostringstream text;
  text << std::ifstream("MODULE.bazel").rdbuf();
  EXPECT_THAT(text.str(), HasSubstr(absl::StrCat("\"", kVersion, "\"")));
}

}  // namespace
}  // namespace cloister::base
