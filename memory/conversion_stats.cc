// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_stats.h"

#include <algorithm>

#include "absl/numeric/bits.h"

namespace cloister::memory {

size_t LatencyBucket(std::chrono::nanoseconds duration) {
  const uint64_t nanos = std::max<int64_t>(1, duration.count());
  const size_t log2 = absl::bit_width(nanos) - 1;
  return std::min(log2, std::tuple_size<LatencyHistogram>::value - 1);
}

void ConversionStatsCollector::RecordConverted(ConversionOrigin origin,
                                               PageState to, uint64_t bytes) {
  if (bytes == 0) return;
  Apply([&](ConversionStats& stats) {
    auto& flows = to == PageState::kShared ? stats.to_shared : stats.to_private;
    ConversionStats::Flow& flow = flows[static_cast<size_t>(origin)];
    ++flow.requests;
    flow.bytes += bytes;
  });
}

void ConversionStatsCollector::RecordRollback(absl::string_view listener) {
  Apply([&](ConversionStats& stats) {
    ++stats.rollbacks_by_listener[std::string(listener)];
  });
}

void ConversionStatsCollector::RecordLatency(
    std::chrono::nanoseconds duration) {
  Apply([&](ConversionStats& stats) {
    ++stats.latency[LatencyBucket(duration)];
  });
}

ConversionStats ConversionStatsCollector::Snapshot() {
  base::MutexLock lock(&mutex_);
  return stats_;
}

}  // namespace cloister::memory
