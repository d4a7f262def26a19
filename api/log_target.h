// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_LOG_TARGET_H_
#define CLOISTER_API_LOG_TARGET_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/json.h"
#include "cloister/api/output_file.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/base/unique_fd.h"

namespace cloister::api {

// Where log lines go: standard error at first, what PUT /logger says from then
// on. Warnings and errors are events as well. Thread-safe.
class LogTarget {
 public:
  // `events` (may be null) must outlive the object.
  LogTarget(std::string id, EventHub* events);

  // For base::Logger, which limits the rate.
  base::Logger::Sink Sink();

  // A Logger object of the schema. InvalidArgument if its file cannot be
  // opened.
  absl::Status Configure(const Json& logger);

  // A descriptor of the log's file for who cannot lock (a signal handler), with
  // whether lines are JSON; not valid while lines go to standard error.
  struct File {
    base::UniqueFd fd;
    bool show_level = false;
    bool json = false;
  };
  absl::StatusOr<File> DuplicateFile();

  // One line of a log file, with its newline.
  static std::string Format(absl::string_view id, base::LogLevel level,
                            absl::string_view message, int64_t utc_us,
                            bool show_level, bool json);

 private:
  void Write(base::LogLevel level, absl::string_view message);

  const std::string id_;
  EventHub* const events_;
  const base::Logger::Sink stderr_ = base::StderrSink();
  base::Mutex mutex_;
  std::unique_ptr<OutputFile> file_ ABSL_GUARDED_BY(mutex_);
  int minimum_ ABSL_GUARDED_BY(mutex_) = 0;
  bool show_level_ ABSL_GUARDED_BY(mutex_) = false;
  bool json_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_LOG_TARGET_H_
