// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_METRICS_SAMPLE_H_
#define CLOISTER_API_METRICS_SAMPLE_H_

#include "cloister/api/metrics.h"

namespace cloister::api {

// A VM with something to count everywhere, and names that need escaping (test
// only). Fills `counters`, which the result refers to.
MetricsSnapshot SampleMetrics(ApiCounters* counters);

}  // namespace cloister::api

#endif  // CLOISTER_API_METRICS_SAMPLE_H_
