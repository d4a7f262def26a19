// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/log.h"

#include <poll.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::base {
namespace {

// A pipe that is ready for output takes this much without blocking (PIPE_BUF).
constexpr size_t kLongestLine = 4096;

int64_t NowSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

absl::string_view LogLevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "unknown";
}

Logger::Logger(Sink sink, LogLevel minimum, int per_second)
    : sink_(std::move(sink)), minimum_(minimum), per_second_(per_second) {}

Logger& Logger::Null() {
  // Never destroyed: a component may log while statics are torn down.
  static Logger& logger =
      *new Logger([](LogLevel, absl::string_view) {}, LogLevel::kError);
  return logger;
}

void Logger::Log(LogLevel level, absl::string_view message) {
  if (!enabled(level)) return;
  MutexLock lock(&mutex_);
  if (per_second_ > 0) {
    int64_t now = NowSeconds();
    if (now != second_) {
      second_ = now;
      in_second_ = 0;
      if (int64_t dropped = std::exchange(dropped_, 0); dropped > 0) {
        sink_(LogLevel::kWarning,
              absl::StrCat(dropped, " log lines dropped (more than ",
                           per_second_, " in a second)"));
      }
    }
    if (in_second_ >= per_second_) {
      ++dropped_;
      return;
    }
    ++in_second_;
  }
  sink_(level, message);
}

Logger::Sink StderrSink() {
  return [](LogLevel level, absl::string_view line) {
    std::string text =
        level == LogLevel::kInfo
            ? absl::StrCat("cloister: ", line, "\n")
            : absl::StrCat("cloister: ", LogLevelName(level), ": ", line, "\n");
    if (text.size() > kLongestLine) {
      text.resize(kLongestLine - 1);
      text.push_back('\n');
    }
    // The caller may be a vCPU's thread, and a guest can cause lines: rather
    // lose one than wait for a reader of stderr that has stopped reading.
    pollfd ready = {STDERR_FILENO, POLLOUT, 0};
    if (::poll(&ready, 1, 0) == 1 && (ready.revents & POLLOUT) != 0) {
      (void)RetryOnEintr(
          [&] { return ::write(STDERR_FILENO, text.data(), text.size()); });
    }
  };
}

}  // namespace cloister::base
