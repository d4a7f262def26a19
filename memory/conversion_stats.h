// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_STATS_H_
#define CLOISTER_MEMORY_CONVERSION_STATS_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::memory {

// Who asked for a conversion.
enum class ConversionOrigin {
  kExplicit = 0,  // the guest, by hypercall
  kImplicit = 1,  // the guest, by touching the page: a memory fault
  kHost = 2,      // the control API or the builder
};

// Durations in powers of two: element i counts [2^i, 2^(i+1)) nanoseconds, the
// first one also 0 and the last one all that is longer.
using LatencyHistogram = std::array<uint64_t, 40>;

// Counts since the broker was made (a reset keeps them), and sizes now.
struct ConversionStats {
  struct Flow {
    uint64_t requests = 0;  // that changed a page
    uint64_t bytes = 0;     // that changed
  };
  // By ConversionOrigin.
  std::array<Flow, 3> to_shared;
  std::array<Flow, 3> to_private;

  uint64_t no_ops = 0;           // requests that had nothing to change
  uint64_t no_op_bytes = 0;      // left out because they were as wanted
  uint64_t aliased_bytes = 0;    // left out because they are aliased
  uint64_t merges = 0;           // ranges of requests that joined a neighbour
  uint64_t stale_faults = 0;     // the page had changed since the vCPU ran
  uint64_t needless_faults = 0;  // the page was as wanted, and had not changed
  uint64_t implicit_after_set_point = 0;  // allowed, under kCount
  uint64_t implicit_denied = 0;
  uint64_t refused = 0;  // bad requests, and those past the shared limit
  uint64_t failed = 0;   // begun, and not finished
  uint64_t undone_chunks = 0;
  uint64_t delayed = 0;  // requests that the rate limit held up
  std::map<std::string, uint64_t> rollbacks_by_listener;  // by who refused

  uint64_t pending_private = 0;        // times a lease outlasted the wait
  uint64_t pending_private_bytes = 0;  // now: the host's copy is still there
  uint64_t leftover_bytes = 0;         // now: could not be freed
  uint64_t reconciled_bytes = 0;       // found on the wrong side and freed
  // What the broker found backed on the wrong side when it last looked at each
  // part of RAM (SurveyFor, CountDoubleBacked, Reconcile; never by itself), and
  // no less than what is pending-private or left over now.
  uint64_t double_backed_bytes = 0;
  uint64_t private_bytes = 0;
  uint64_t shared_bytes = 0;
  uint64_t aliased_total_bytes = 0;
  uint64_t queued = 0;  // requests waiting for their turn now

  // Of guest requests, from their arrival without delays by the rate limit.
  LatencyHistogram latency = {};
};

// The element of a histogram that counts `duration`.
size_t LatencyBucket(std::chrono::nanoseconds duration);

// Collects the counts. Thread-safe.
class ConversionStatsCollector {
 public:
  // Calls `update` with the counts, under the lock.
  template <typename Update>
  void Apply(Update update) {
    base::MutexLock lock(&mutex_);
    update(stats_);
  }
  void RecordConverted(ConversionOrigin origin, PageState to, uint64_t bytes);
  void RecordRollback(absl::string_view listener);
  void RecordLatency(std::chrono::nanoseconds duration);

  ConversionStats Snapshot();

 private:
  base::Mutex mutex_;
  ConversionStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_STATS_H_
