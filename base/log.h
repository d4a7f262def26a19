// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_LOG_H_
#define CLOISTER_BASE_LOG_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "cloister/base/mutex.h"

namespace cloister::base {

enum class LogLevel : int { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning", "error".
absl::string_view LogLevelName(LogLevel level);

// Where a component reports what its caller should know. One object is passed
// to each component; there is no global logger. Thread-safe.
class Logger {
 public:
  // Receives finished lines, without a newline, under the logger's lock.
  using Sink = std::function<void(LogLevel, absl::string_view line)>;

  // `sink` must outlive the logger's last use. At most `per_second` lines per
  // second reach it (0: no limit); what was dropped is reported once the second
  // is over, so that a guest cannot fill the host's disk.
  Logger(Sink sink, LogLevel minimum, int per_second = 0);

  // A logger that drops everything: for tests and for embedders without one.
  static Logger& Null();

  void Log(LogLevel level, absl::string_view message);
  void Debug(absl::string_view message) { Log(LogLevel::kDebug, message); }
  void Info(absl::string_view message) { Log(LogLevel::kInfo, message); }
  void Warning(absl::string_view message) { Log(LogLevel::kWarning, message); }
  void Error(absl::string_view message) { Log(LogLevel::kError, message); }

  bool enabled(LogLevel level) const { return level >= minimum_.load(); }
  void set_minimum(LogLevel minimum) { minimum_.store(minimum); }

 private:
  Mutex mutex_;
  Sink sink_ ABSL_GUARDED_BY(mutex_);
  std::atomic<LogLevel> minimum_;
  const int per_second_;
  int64_t second_ ABSL_GUARDED_BY(mutex_) = 0;
  int in_second_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A sink that writes "cloister: <level>: <line>\n" to stderr in one write(2);
// info lines carry no level. Never blocks on a pipe: drops what it has no room
// for, and cuts lines at 4 KiB.
Logger::Sink StderrSink();

}  // namespace cloister::base

#endif  // CLOISTER_BASE_LOG_H_
