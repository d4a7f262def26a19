// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/json.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;

std::string Error(const std::string& text) {
  auto parsed = ParseJson(text);
  return parsed.ok() ? "parsed" : std::string(parsed.status().message());
}

std::string Nested(int depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

TEST(JsonTest, ParsesWhatTheLibraryParses) {
  for (const char* text :
       {"null", "true", "-7", "18446744073709551615", "1.5e3", "\"a\\u00e9\"",
        "[]", "{}", "[1,[2,{\"a\":[{\"b\":null}],\"c\":\"d\"}],3]",
        "{\"a\":{\"b\":{\"c\":[1,2]},\"d\":1},\"e\":[{},[],{\"f\":{}}]}"}) {
    ASSERT_OK_AND_ASSIGN(Json parsed, ParseJson(text));
    EXPECT_EQ(parsed, Json::parse(text)) << text;
  }
}

TEST(JsonTest, DepthIsAllowedUpToTheLimit) {
  EXPECT_EQ(Error(Nested(32)), "parsed");
  EXPECT_THAT(Error(Nested(33)), HasSubstr("32 levels"));
  EXPECT_THAT(Error(Nested(40000)), HasSubstr("32 levels"));
  // Width is no depth.
  EXPECT_EQ(Error("[" + Nested(31) + "," + Nested(31) + "]"), "parsed");
}

TEST(JsonTest, KeysAreUniqueInEachObject) {
  EXPECT_THAT(Error("{\"a\":1,\"b\":2,\"a\":1}"),
              HasSubstr("\"a\" appears twice"));
  EXPECT_THAT(Error("{\"x\":{\"a\":1,\"a\":2}}"), HasSubstr("twice"));
  // The same key, written in two ways.
  EXPECT_THAT(Error("{\"a\":1,\"\\u0061\":2}"), HasSubstr("twice"));
  EXPECT_EQ(Error("[{\"a\":1},{\"a\":{\"a\":2}}]"), "parsed");
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const std::string text :
       {"", "{", "{\"a\":", "{\"a\":1", "[1,]", "{\"a\":1}x", "{a:1}", "'a'",
        "nul", "01", "+1", "1e999", "NaN", "\"\\x\"", "\"\\ud800\"",
        "// c\n1"}) {
    EXPECT_THAT(Error(text), HasSubstr("not JSON")) << text;
  }
}

TEST(JsonTest, RefusesTextThatIsNotUtf8) {
  for (const std::string bytes :
       {"\xff", "\xc0\xaf", "\xe2\x82", "\xed\xa0\x80", "\xf5\x80\x80\x80"}) {
    EXPECT_THAT(Error(absl::StrCat("{\"a\":\"", bytes, "\"}")),
                HasSubstr("not JSON"));
    EXPECT_THAT(Error(absl::StrCat("{\"", bytes, "\":1}")),
                HasSubstr("not JSON"));
  }
}

TEST(JsonTest, ErrorsAreOneLineOfText) {
  const std::string error = Error("{\"a\n\x01\xff\":1}");
  for (char c : error) EXPECT_TRUE(c >= ' ' && c < 127) << error;
}

TEST(JsonTest, TextReplacesBadBytes) {
  EXPECT_EQ(JsonText(Json("a\xff")), "\"a\xef\xbf\xbd\"");
  EXPECT_EQ(JsonText(Json({{"a", 1}}), true), "{\n  \"a\": 1\n}");
}

}  // namespace
}  // namespace cloister::api
