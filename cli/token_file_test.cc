// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/token_file.h"

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string File(const std::string& content, mode_t mode) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/token");
  std::ofstream(path) << content;
  EXPECT_EQ(::chmod(path.c_str(), mode), 0);
  return path;
}

TEST(TokenFileTest, ReadsATokenWithoutTheSpaceAroundIt) {
  EXPECT_THAT(ReadTokenFile(File(" sixteen-letters!\n", 0600)),
              IsOkAndHolds("sixteen-letters!"));
}

TEST(TokenFileTest, RefusesWhatOthersMayReadAndShortTokensByName) {
  std::string path = File("sixteen-letters!", 0640);
  EXPECT_THAT(ReadTokenFile(path),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       AllOf(HasSubstr("--api-token-file " + path),
                             HasSubstr("others"))));
  path = File("fifteen-letters\n", 0600);
  EXPECT_THAT(ReadTokenFile(path), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("16 characters")));
  EXPECT_THAT(ReadTokenFile("/no/such/file"),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("--api-token-file /no/such/file")));
}

}  // namespace
}  // namespace cloister::cli
