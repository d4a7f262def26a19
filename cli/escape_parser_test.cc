// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/escape_parser.h"

#include <random>
#include <string>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

// What the guest gets, with "<quit>" and so on where commands were.
std::string Feed(EscapeParser& parser, absl::string_view text) {
  std::string result;
  for (const EscapeParser::Step& step : parser.Feed(absl::MakeConstSpan(
           reinterpret_cast<const uint8_t*>(text.data()), text.size()))) {
    result.append(step.bytes.begin(), step.bytes.end());
    if (!step.action.has_value()) continue;
    switch (*step.action) {
      case EscapeParser::Action::kQuit:
        result += "<quit>";
        break;
      case EscapeParser::Action::kHelp:
        result += "<help>";
        break;
      case EscapeParser::Action::kBreak:
        result += "<break>";
        break;
    }
  }
  return result;
}

TEST(EscapeParserTest, OrdinaryBytesPass) {
  EscapeParser parser;
  std::string all;
  for (int i = 0; i < 256; ++i) {
    if (i != EscapeParser::kEscape) all += static_cast<char>(i);
  }
  EXPECT_EQ(Feed(parser, all), all);
  EXPECT_EQ(Feed(parser, ""), "");
}

TEST(EscapeParserTest, Commands) {
  EscapeParser parser;
  EXPECT_EQ(Feed(parser, "a\1hb\1?c\1bd\1Be\1Hf"),
            "a<help>b<help>c<break>d<break>e<help>f");
  EXPECT_EQ(Feed(parser, "ls\1xrest"), "ls<quit>");
  EXPECT_EQ(Feed(parser, "\1X"), "<quit>");
}

TEST(EscapeParserTest, DoubledEscapeIsOne) {
  EscapeParser parser;
  EXPECT_EQ(Feed(parser, "\1\1x"), "\1x");
  EXPECT_EQ(Feed(parser, "\1\1\1\1\1x"), "\1\1<quit>");
}

TEST(EscapeParserTest, UnknownCommandIsSwallowed) {
  EscapeParser parser;
  EXPECT_EQ(Feed(parser, "a\1zb"), "ab");
  EXPECT_FALSE(parser.escaped());
}

TEST(EscapeParserTest, SplitAnywhereMeansTheSame) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::string input;
    for (int i = 0; i < 40; ++i) input += "\1\1hbaz\3"[random() % 7];
    EscapeParser whole, split;
    std::string pieces;
    for (size_t at = 0; at < input.size();) {
      const size_t size = 1 + random() % 3;
      pieces += Feed(split, absl::string_view(input).substr(at, size));
      at += size;
    }
    EXPECT_EQ(pieces, Feed(whole, input));
    EXPECT_EQ(split.escaped(), whole.escaped());
  }
}

}  // namespace
}  // namespace cloister::cli
