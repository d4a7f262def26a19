// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/doc_commands.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::ElementsAre;

TEST(DocCommandsTest, CommandsMayHaveSeveralLines) {
  EXPECT_THAT(SplitCommands("one\n\ntwo -d '{\n  \"a\": 1}'\nthree \\\n  x\n"),
              ElementsAre("one", "two -d '{\n  \"a\": 1}'", "three \\\n  x"));
  EXPECT_THAT(SplitCommands("\n"), ElementsAre());
}

TEST(DocCommandsTest, FindsTheBlockBelowTheHeading) {
  const std::string page = absl::StrCat(::testing::TempDir(), "/page.md");
  std::ofstream(page)
      << "# A\n\n```\nno\n```\n\n## B\n\ntext\n\n```\nyes\n```\n";
  EXPECT_THAT(DocCommands(page, "## B"), IsOkAndHolds(ElementsAre("yes")));
  EXPECT_THAT(DocCommands(page, "# A"), IsOkAndHolds(ElementsAre("no")));
  EXPECT_THAT(DocCommands(page, "## C"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(DocCommands("/no/such/page", "# A"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(DocCommandsTest, FindsEveryBlockUpToTheNextHeading) {
  const std::string page = absl::StrCat(::testing::TempDir(), "/blocks.md");
  std::ofstream(page)
      << "# A\n```\nno\n```\n## B\n```sh\n# one\ntwo\n```\ntext\n"
         "```\nthree\n```\n## C\n```\nno\n```\n## D\n";
  EXPECT_THAT(DocBlocks(page, "## B"),
              IsOkAndHolds(ElementsAre("# one\ntwo\n", "three\n")));
  EXPECT_THAT(DocBlocks(page, "## D"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(DocBlocks("/no/such/page", "# A"),
              StatusIs(absl::StatusCode::kNotFound));
  std::ofstream(page) << "# A\n```sh\nopen\n";
  EXPECT_THAT(DocBlocks(page, "# A"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace cloister::tests
