// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/config_file.h"

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::cloister::base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kMiB = 1 << 20;

std::string File(const std::string& content) {
  std::string path = absl::StrCat(::testing::TempDir(), "/config.json");
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

TEST(ConfigFileTest, IsReadWhole) {
  EXPECT_THAT(ReadConfigFile(File("")), IsOkAndHolds(""));
  const std::string text = "{\"a\":\"" + std::string(3, '\0') + "\"}\n";
  EXPECT_THAT(ReadConfigFile(File(text)), IsOkAndHolds(text));
  // More than one read, and the largest there may be.
  std::string large(kMiB, 'x');
  for (size_t i = 0; i < large.size(); i += 977) large[i] = 'y';
  EXPECT_THAT(ReadConfigFile(File(large)), IsOkAndHolds(large));
}

TEST(ConfigFileTest, MistakesNameOptionAndFile) {
  const std::string large = File(std::string(kMiB + 1, 'x'));
  EXPECT_THAT(ReadConfigFile(large),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("--config-file " + large),
                             HasSubstr("larger than 1 MiB"))));
  EXPECT_THAT(ReadConfigFile("/no/such/file"),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("--config-file /no/such/file")));
  EXPECT_FALSE(ReadConfigFile("/").ok()) << "a folder";
  EXPECT_THAT(std::string(ReadConfigFile("/").status().message()),
              HasSubstr("--config-file /"));
  // Without an end.
  EXPECT_THAT(ReadConfigFile("/dev/zero"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace cloister::cli
