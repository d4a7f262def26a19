// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_METRICS_TARGET_H_
#define CLOISTER_API_METRICS_TARGET_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/metrics.h"
#include "cloister/base/mutex.h"

namespace cloister::api {

// The file or named pipe of PUT /metrics: gets a line of JSON for each
// snapshot, with what was counted since the line before. Thread-safe; never
// waits for a reader. Open and Write take as long as the file system, the
// others do not wait for them.
class MetricsTarget {
 public:
  // Takes what it has room for of a text, and returns how many bytes.
  using Append = std::function<size_t(absl::string_view text)>;
  // Opens the file or named pipe of a path.
  using Opener = std::function<absl::StatusOr<Append>(const std::string& path)>;

  MetricsTarget();
  explicit MetricsTarget(Opener opener);

  // Opens what a Metrics object (of the schema) names. FailedPrecondition if
  // one is open already, InvalidArgument if it cannot be opened; both name
  // metrics_path.
  absl::Status Open(const Json& target);
  bool is_open();
  // What a request to write gets while nothing is open.
  static absl::Status NotOpen();

  // Appends a line. Unavailable if there is no room for it.
  absl::Status Write(const MetricsSnapshot& snapshot);

  // Whether a minute has passed since it last said so, or since Open.
  bool IsDue(std::chrono::steady_clock::time_point now);

 private:
  const Opener opener_;
  // Held while the file is opened and written. Before due_mutex_.
  base::Mutex file_mutex_;
  Append file_ ABSL_GUARDED_BY(file_mutex_);
  std::shared_ptr<Json> target_ ABSL_GUARDED_BY(file_mutex_);
  std::shared_ptr<Json> last_totals_ ABSL_GUARDED_BY(file_mutex_);
  // Of a line that a pipe had no room for.
  std::string rest_ ABSL_GUARDED_BY(file_mutex_);
  // Held for no system call.
  base::Mutex due_mutex_;
  // Empty until the file is open.
  std::optional<std::chrono::steady_clock::time_point> next_
      ABSL_GUARDED_BY(due_mutex_);
};

}  // namespace cloister::api

#endif  // CLOISTER_API_METRICS_TARGET_H_
