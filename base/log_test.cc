// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/log.h"

#include <fcntl.h>
#include <unistd.h>

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

TEST(LoggerTest, AReaderOfStderrThatStoppedDoesNotHoldUpTheCaller) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  const std::string block(4096, 'x');
  while (::write(fds[1], block.data(), block.size()) > 0) {
  }
  // Blocking from here on: a write to the full pipe would wait for ever.
  ASSERT_EQ(::fcntl(fds[1], F_SETFL, 0), 0);
  const int saved = ::dup(STDERR_FILENO);
  ::dup2(fds[1], STDERR_FILENO);
  Logger logger(StderrSink(), LogLevel::kInfo);
  logger.Warning("nobody reads this");
  ::dup2(saved, STDERR_FILENO);
  for (int fd : {saved, fds[0], fds[1]}) ::close(fd);
}

TEST(LoggerTest, NullLoggerAcceptsEverything) {
  Logger::Null().Error("nobody hears");
}

}  // namespace
}  // namespace cloister::base
