// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/metrics_sample.h"

#include <chrono>

namespace cloister::api {

MetricsSnapshot SampleMetrics(ApiCounters* counters) {
  MetricsSnapshot snapshot;
  snapshot.id = "a\"b\\c\n";
  snapshot.backend = "emulated";
  snapshot.uptime = std::chrono::microseconds(1500000);
  snapshot.api = counters;
  snapshot.machine.vcpus = {{"0", {{"port_read", 3}}},
                            {"1", {{"port_read", 4}}}};
  snapshot.machine.devices = {
      {"serial", {{"tx_bytes", 9}}},
      {"block_root", {{"reads", 6}}, {{"in_flight", 2}}}};
  snapshot.machine.boot = {{"first KVM_RUN", std::chrono::milliseconds(2)}};
  snapshot.machine.leased_bytes = 12288;
  memory::ConversionStats& stats = snapshot.machine.conversions.emplace();
  stats.to_shared[0] = {2, 8192};
  stats.private_bytes = 4096;
  stats.latency[3] = 1;
  stats.latency[39] = 2;
  counters->by_method[0].count = 5;
  counters->by_method[0].failed = 1;
  return snapshot;
}

}  // namespace cloister::api
