// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/ctl_command.h"

#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::HasSubstr;

TEST(CtlCommandTest, VerbsAreRequests) {
  CtlOptions options;
  options.verb = "pause";
  ASSERT_OK_AND_ASSIGN(api::ClientRequest request, CtlRequestOf(options));
  EXPECT_EQ(request.method, "PATCH");
  EXPECT_EQ(request.target, "/vm");
  EXPECT_EQ(request.body, "{\"state\":\"Paused\"}");
  options.verb = "put";
  options.path = "/entropy";
  options.body = "{}";
  ASSERT_OK_AND_ASSIGN(request, CtlRequestOf(options));
  EXPECT_EQ(request.method, "PUT");
  EXPECT_EQ(request.body, "{}");
}

TEST(CtlCommandTest, MistakesAreNamedBeforeAnythingIsSent) {
  CtlOptions options;
  options.verb = "put";
  options.path = "entropy";
  options.body = "{}";
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("\"entropy\""));
  options.path = "/entropy";
  options.body = "{";
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("not JSON"));
  options.body = "{\"bogus\":1}";
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("unknown field \"bogus\""));
  options.verb = "patch";
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("PATCH /entropy"));
  options.verb = "get";
  options.path = "/memory/attributes?lenn=1";
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("\"lenn\""));
  options.path = "/mmds";
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("not supported"));
  options.verb = "convert";
  options.ranges = {"0x1000"};
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("GPA,SIZE"));
  options.ranges = {"0x1000,many"};
  EXPECT_THAT(std::string(CtlRequestOf(options).status().message()),
              HasSubstr("len: expected a size"));
}

TEST(CtlCommandTest, ConvertListsItsRanges) {
  CtlOptions options;
  options.verb = "convert";
  options.ranges = {"0x100000000,64KiB", "0x100100000,4096"};
  options.to = "private";
  ASSERT_OK_AND_ASSIGN(api::ClientRequest request, CtlRequestOf(options));
  EXPECT_EQ(request.target, "/memory/convert");
  EXPECT_EQ(request.body,
            "{\"ranges\":[{\"gpa\":\"0x100000000\",\"len\":\"64KiB\",\"to\":"
            "\"private\"},{\"gpa\":\"0x100100000\",\"len\":\"4096\",\"to\":"
            "\"private\"}],\"reason\":\"exchange-window\"}");
}

TEST(CtlCommandTest, MemoryIsATable) {
  const std::string text = MemoryText(
      "{\"segments\":[{\"gpa\":\"0x0\",\"len\":\"0x1000\",\"name\":\"RAM\"}],"
      "\"bytes\":{\"private\":1572864}}",
      "{\"to_shared\":{\"host\":{\"requests\":2,\"bytes\":8192}},"
      "\"to_private\":{}}");
  EXPECT_THAT(text, HasSubstr("0x1000  RAM\n"));
  EXPECT_THAT(text, HasSubstr("1.5 MiB"));
  EXPECT_THAT(text, HasSubstr("2 requests, 8 KiB"));
}

}  // namespace
}  // namespace cloister::cli
