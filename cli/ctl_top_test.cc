// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/ctl_top.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kInstance[] = "{\"id\":\"vm\\u001b[2J7\",\"state\":\"Running\"}";

std::string Metrics(uint64_t uptime_us, uint64_t requests, uint64_t exits) {
  return absl::StrCat(
      "{\"uptime_us\":", uptime_us,
      ",\"backend\":\"emulated\",\"vcpus\":[{\"port_write\":", exits,
      ",\"halt\":1}],\"devices\":{\"serial\":{\"tx_bytes\":", exits,
      "}},\"memory\":{\"to_shared\":{\"explicit\":{\"requests\":", requests,
      ",\"bytes\":", requests * 4096,
      "}},\"to_private\":{},\"bytes\":{\"double_backed\":8192}}}");
}

constexpr char kMap[] =
    "{\"bytes\":{\"private\":3145728,\"shared\":1048576,\"aliased\":0},"
    "\"segments\":[{\"kind\":\"ram\",\"cells\":[[1048576,0,0],[1048576,0,0],"
    "[1048576,0,0],[0,1048576,0]]},{\"kind\":\"hole\"}]}";

TEST(CtlTopTest, ShowsRatesBetweenTwoSamples) {
  TopScreen screen(80);
  ASSERT_OK_AND_ASSIGN(
      TopSample first,
      ParseTopSample(kInstance, Metrics(1000000, 10, 100), kMap));
  ASSERT_OK_AND_ASSIGN(
      TopSample second,
      ParseTopSample(kInstance, Metrics(3000000, 30, 25100), kMap));
  const std::string before = screen.Render(first);
  EXPECT_THAT(before, HasSubstr("private 3 MiB"));
  EXPECT_THAT(before, HasSubstr("nothing"));
  const std::string after = screen.Render(second);
  EXPECT_THAT(after, HasSubstr("shared 1 MiB"));
  EXPECT_THAT(after, HasSubstr("twice 8 KiB"));
  // 20 conversions in two seconds, 25000 exits.
  EXPECT_THAT(after, HasSubstr("    10    40 KiB/s"));
  EXPECT_THAT(after, HasSubstr("port_write  12.5k"));
  EXPECT_THAT(after, Not(HasSubstr("halt")));
  EXPECT_THAT(after, HasSubstr("tx_bytes"));
  EXPECT_THAT(after, HasSubstr("█"));
}

TEST(CtlTopTest, RatesOfDevicesFitTheScreen) {
  for (size_t width : {40, 80, 120}) {
    TopScreen screen(width);
    auto sample = [](uint64_t seconds) {
      std::string counters;
      for (int i = 0; i < 8; ++i) {
        absl::StrAppend(&counters, i == 0 ? "" : ",", "\"counter", i,
                        "\":", seconds * (100 - i));
      }
      return ParseTopSample(
          kInstance,
          absl::StrCat("{\"uptime_us\":", seconds * 1000000,
                       ",\"devices\":{\"block_rootfs\":{", counters, "}}}"),
          kMap);
    };
    ASSERT_OK_AND_ASSIGN(TopSample first, sample(1));
    ASSERT_OK_AND_ASSIGN(TopSample second, sample(2));
    screen.Render(first);
    const std::string text = screen.Render(second);
    const size_t row = text.find("  block_rootfs ");
    ASSERT_NE(row, std::string::npos) << text;
    const std::string line = text.substr(row, text.find('\n', row) - row);
    EXPECT_LE(line.size(), width) << line;
    EXPECT_THAT(line, HasSubstr("counter0      100")) << "the largest first";
  }
}

// How many columns a line takes: escapes none, a character of UTF-8 one.
size_t Columns(const std::string& line) {
  size_t columns = 0;
  for (size_t at = 0; at < line.size(); ++at) {
    if (line[at] == '\x1b') {
      at = line.find('m', at);
    } else if ((line[at] & 0xc0) != 0x80) {
      ++columns;
    }
  }
  return columns;
}

TEST(CtlTopTest, NoLineIsWiderThanTheScreen) {
  constexpr char kHuge[] =
      "{\"bytes\":{\"private\":1098437885952,\"shared\":1098437885952,"
      "\"aliased\":1098437885952},\"segments\":[]}";
  for (size_t width : {40, 50, 80, 84, 100, 200}) {
    TopScreen screen(width);
    std::string text;
    // Enough for the history to be full.
    for (uint64_t i = 1; i < 250; ++i) {
      ASSERT_OK_AND_ASSIGN(
          TopSample sample,
          ParseTopSample(kInstance,
                         Metrics(i * 1000000, i * i * 12345, i * 999999),
                         kHuge));
      text = screen.Render(sample);
    }
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      EXPECT_LE(Columns(std::string(line)), width) << line;
    }
  }
}

TEST(CtlTopTest, ShortTerminalsKeepTheTopAndTheLastLine) {
  EXPECT_EQ(FitRows("a\nb\nc\n", "q", 24), "a\nb\nc\nq");
  EXPECT_EQ(FitRows("a\nb\nc\n", "q", 4), "a\nb\nc\nq");
  EXPECT_EQ(FitRows("a\nb\nc\n", "q", 3), "a\nb\nq");
  EXPECT_EQ(FitRows("a\nb\nc\n", "q", 1), "q");
  EXPECT_EQ(FitRows("", "q", 3), "q");
}

TEST(CtlTopTest, NamesCannotDrawOnTheTerminal) {
  TopScreen screen(80);
  ASSERT_OK_AND_ASSIGN(TopSample sample,
                       ParseTopSample(kInstance, Metrics(1, 1, 1), kMap));
  EXPECT_THAT(screen.Render(sample), Not(HasSubstr("\x1b[2J")));
}

TEST(CtlTopTest, BarIsAsWideAsTheScreen) {
  for (size_t width : {40, 80, 200}) {
    TopScreen screen(width);
    ASSERT_OK_AND_ASSIGN(TopSample sample,
                         ParseTopSample(kInstance, Metrics(1, 1, 1), kMap));
    const std::string text = screen.Render(sample);
    size_t blocks = 0;
    const size_t line = text.find("\n\n") + 2;
    for (size_t at = line; at < text.find('\n', line); ++at) {
      // Each block is three bytes of UTF-8, the first 0xe2.
      if (static_cast<unsigned char>(text[at]) == 0xe2) ++blocks;
    }
    EXPECT_EQ(blocks, width - 4);
  }
}

TEST(CtlTopTest, ServersMayAnswerAnything) {
  for (const char* text :
       {"{}", "{\"vcpus\":7}", "{\"vcpus\":[7],\"devices\":{\"a\":7}}",
        "{\"memory\":{\"to_shared\":{\"explicit\":{\"requests\":-1}}}}",
        "{\"segments\":[{\"cells\":[[1],7,[\"a\",-1,2]]}],\"bytes\":{}}"}) {
    auto sample = ParseTopSample("{}", text, text);
    if (!sample.ok()) continue;
    TopScreen screen(80);
    screen.Render(*sample);
    EXPECT_NE(screen.Render(*sample), "");
  }
  EXPECT_FALSE(ParseTopSample("[]", "{}", "{}").ok());
  EXPECT_FALSE(ParseTopSample("{}", "{", "{}").ok());
}

}  // namespace
}  // namespace cloister::cli
