// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/log.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

using ::testing::ElementsAre;

struct Recorder {
  std::vector<std::string> lines;
  Logger::Sink Sink() {
    return [this](LogLevel level, absl::string_view line) {
      lines.push_back(std::string(LogLevelName(level)) + ":" +
                      std::string(line));
    };
  }
};

TEST(LoggerTest, DropsBelowMinimum) {
  Recorder recorder;
  Logger logger(recorder.Sink(), LogLevel::kWarning);
  logger.Info("quiet");
  logger.Warning("loud");
  logger.set_minimum(LogLevel::kDebug);
  logger.Debug("all");
  EXPECT_THAT(recorder.lines, ElementsAre("warning:loud", "debug:all"));
}

TEST(LoggerTest, LimitsLinesPerSecond) {
  Recorder recorder;
  Logger logger(recorder.Sink(), LogLevel::kDebug, /*per_second=*/5);
  for (int i = 0; i < 1000; ++i) logger.Info("x");
  // A second may pass during the loop: two windows at most, and their report.
  EXPECT_GE(recorder.lines.size(), 5u);
  EXPECT_LE(recorder.lines.size(), 11u);
}

TEST(LoggerTest, NullLoggerAcceptsEverything) {
  Logger::Null().Error("nobody hears");
}

}  // namespace
}  // namespace cloister::base
