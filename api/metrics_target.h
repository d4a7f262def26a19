// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_METRICS_TARGET_H_
#define CLOISTER_API_METRICS_TARGET_H_

#include <chrono>
#include <memory>

#include "absl/status/status.h"
#include "cloister/api/json.h"
#include "cloister/api/metrics.h"
#include "cloister/api/output_file.h"
#include "cloister/base/mutex.h"

namespace cloister::api {

// The file or named pipe of PUT /metrics: gets a line of JSON for each
// snapshot, with what was counted since the line before. Thread-safe; never
// waits for a reader.
class MetricsTarget {
 public:
  MetricsTarget();

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
  base::Mutex mutex_;
  std::unique_ptr<OutputFile> file_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Json> target_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Json> last_totals_ ABSL_GUARDED_BY(mutex_);
  // Of a line that a pipe had no room for.
  std::string rest_ ABSL_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point next_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::api

#endif  // CLOISTER_API_METRICS_TARGET_H_
