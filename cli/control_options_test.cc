// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/control_options.h"

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/schema.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Parses `words`; the mistake, or nothing. CLI11 wants them last first.
std::string Parse(CLI::App& app, std::vector<std::string> words) {
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

std::string ParseApi(std::vector<std::string> words, ApiOptions* options) {
  CLI::App app;
  AddApiOptions(&app, options);
  return Parse(app, std::move(words));
}

std::string ParseCtl(std::vector<std::string> words, CtlOptions* options) {
  CLI::App app;
  AddCtlCommands(&app, options);
  return Parse(app, std::move(words));
}

TEST(ApiOptionsTest, NobodyIsServedUnlessAskedFor) {
  ApiOptions options;
  EXPECT_EQ(ParseApi({}, &options), "");
  EXPECT_FALSE(options.wanted());
  EXPECT_EQ(options.mode, 0600u);
  EXPECT_EQ(ParseApi({"--api-tcp", "127.0.0.1:80"}, &options), "");
  EXPECT_TRUE(options.wanted());
}

TEST(ApiOptionsTest, EveryOptionArrives) {
  ApiOptions options;
  EXPECT_EQ(ParseApi({"--api-sock", "/s", "--api-sock-mode", "660",
                      "--api-token-file", "/t", "--api-max-connections", "4096",
                      "--api-max-header", "256", "--api-max-body", "67108864",
                      "--api-idle-ms", "10"},
                     &options),
            "");
  EXPECT_EQ(options.socket, "/s");
  EXPECT_EQ(options.mode, 0660u);
  EXPECT_EQ(options.token_file, "/t");
  EXPECT_EQ(options.max_connections, 4096u);
  EXPECT_EQ(options.max_header, 256u);
  EXPECT_EQ(options.max_body, 67108864u);
  EXPECT_EQ(options.idle_ms, 10u);
}

TEST(ApiOptionsTest, MistakesNameTheOption) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"--api-sock-mode", "0600"},      {"--api-sock-mode", "68"},
      {"--api-sock-mode", "689"},       {"--api-sock-mode", "-66"},
      {"--api-max-connections", "0"},   {"--api-max-connections", "4097"},
      {"--api-max-header", "255"},      {"--api-max-header", "1048577"},
      {"--api-max-body", "63"},         {"--api-max-body", "67108865"},
      {"--api-idle-ms", "9"},           {"--api-idle-ms", "3600001"},
      {"--api-max-connections", "many"}};
  for (const auto& [option, value] : mistakes) {
    ApiOptions options;
    EXPECT_THAT(ParseApi({option, value}, &options), HasSubstr(option))
        << value;
  }
}

TEST(CtlOptionsTest, VerbsTakeWhatTheyNeed) {
  CtlOptions options;
  EXPECT_EQ(ParseCtl({"--api-sock", "/s", "put", "/vm", "{}"}, &options), "");
  EXPECT_EQ(options.socket, "/s");
  EXPECT_EQ(options.verb, "put");
  EXPECT_EQ(options.path, "/vm");
  EXPECT_EQ(options.body, "{}");
  options = {};
  EXPECT_EQ(ParseCtl({"--api-sock", "/s", "convert", "0,4K", "8K,4K", "--to",
                      "private", "--reason", "given-up"},
                     &options),
            "");
  EXPECT_EQ(options.verb, "convert");
  EXPECT_THAT(options.ranges, ElementsAre("0,4K", "8K,4K"));
  EXPECT_EQ(options.to, "private");
  EXPECT_EQ(options.reason, "given-up");
  options = {};
  EXPECT_EQ(
      ParseCtl({"--api-sock", "/s", "top", "--interval-ms", "100", "--once"},
               &options),
      "");
  EXPECT_EQ(options.verb, "top");
  EXPECT_EQ(options.interval_ms, 100u);
  EXPECT_TRUE(options.once);
  options = {};
  EXPECT_EQ(ParseCtl({"--api-sock", "/s", "events", "--count", "3"}, &options),
            "");
  EXPECT_EQ(options.count, 3u);
  options = {};
  EXPECT_EQ(
      ParseCtl({"--api-tcp", "127.0.0.1:80", "--api-token-file", "/t", "pause"},
               &options),
      "");
  EXPECT_EQ(options.tcp, "127.0.0.1:80");
  EXPECT_EQ(options.token_file, "/t");
  // The socket may come last, as in a script's "$@".
  options = {};
  EXPECT_EQ(ParseCtl({"start", "--api-sock", "/s"}, &options), "");
  EXPECT_EQ(options.verb, "start");
  EXPECT_EQ(options.socket, "/s");
}

// What --help, the man page and the completions say of paths is the API's own.
TEST(CtlOptionsTest, RequestsNameTheirPaths) {
  CtlOptions options;
  CLI::App app;
  AddCtlCommands(&app, &options);
  for (const api::Endpoint& endpoint : api::Endpoints()) {
    const std::string verb =
        absl::AsciiStrToLower(api::MethodName(endpoint.method));
    EXPECT_EQ(
        absl::StrContains(
            app.get_subcommand(verb)->get_option("path")->get_description(),
            absl::StrCat(" ", endpoint.path)),
        endpoint.group != api::Group::kAbsent)
        << endpoint.id;
  }
}

TEST(CtlOptionsTest, OneServerOneWay) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{
           {"start"},
           {"--api-tcp", "127.0.0.1:80", "start"},
           {"--api-sock", "/s", "--api-token-file", "/t", "start"},
           {"--api-sock", "/s", "--api-tcp", "127.0.0.1:80", "--api-token-file",
            "/t", "start"}}) {
    CtlOptions options;
    EXPECT_THAT(ParseCtl(words, &options), HasSubstr("--api-tcp"));
  }
}

TEST(CtlOptionsTest, MistakesAreFound) {
  CtlOptions options;
  EXPECT_THAT(ParseCtl({"start"}, &options), HasSubstr("--api-sock"));
  EXPECT_NE(ParseCtl({"--api-sock", "/s"}, &options), "") << "no verb";
  EXPECT_NE(ParseCtl({"--api-sock", "/s", "fly"}, &options), "");
  EXPECT_NE(ParseCtl({"--api-sock", "/s", "put", "/vm"}, &options), "")
      << "no body";
  EXPECT_THAT(ParseCtl({"--api-sock", "/s", "convert"}, &options),
              HasSubstr("ranges"));
  EXPECT_THAT(
      ParseCtl({"--api-sock", "/s", "convert", "0,4K", "--to", "secret"},
               &options),
      HasSubstr("--to"));
  EXPECT_THAT(
      ParseCtl({"--api-sock", "/s", "convert", "0,4K", "--reason", "because"},
               &options),
      HasSubstr("--reason"));
  EXPECT_THAT(
      ParseCtl({"--api-sock", "/s", "top", "--interval-ms", "99"}, &options),
      HasSubstr("--interval-ms"));
}

}  // namespace
}  // namespace cloister::cli
