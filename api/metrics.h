// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_METRICS_H_
#define CLOISTER_API_METRICS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/machine.h"
#include "cloister/api/schema.h"

namespace cloister::api {

// Counters of the API itself: counted by the server and the controller, read by
// whoever asks. Thread-safe.
struct ApiCounters {
  struct Requests {
    std::atomic<uint64_t> count{0};
    std::atomic<uint64_t> failed{0};  // answered with 400 or more
  };
  std::array<Requests, 4> by_method;      // by Method
  std::atomic<uint64_t> bad_requests{0};  // not HTTP, or over a limit
  std::atomic<uint64_t> connections{0};
  std::atomic<uint64_t> connections_refused{0};
  std::atomic<uint64_t> timeouts{0};
  std::atomic<uint64_t> events_dropped{0};
};

// Everything that is counted, at one moment.
struct MetricsSnapshot {
  std::string id;
  std::string backend;
  std::chrono::microseconds uptime{0};
  MachineStats machine;
  const ApiCounters* api = nullptr;
};

Json ApiJson(const ApiCounters& counters);

// GET /metrics: totals since the start.
Json MetricsJson(const MetricsSnapshot& snapshot);

// GET /metrics/prometheus: text format 0.0.4, every name with HELP and TYPE.
std::string PrometheusText(const MetricsSnapshot& snapshot);

// One line of the metrics file. As in Firecracker's files counters are what
// was added since `previous`, the totals of the last line (null at first),
// which becomes the new totals; sizes are as they are now.
Json MetricsLine(const MetricsSnapshot& snapshot, int64_t utc_ms,
                 Json* previous);

}  // namespace cloister::api

#endif  // CLOISTER_API_METRICS_H_
