// SPDX-License-Identifier: Apache-2.0
//
// Prints the Prometheus text of a VM that counts something everywhere, for
// Prometheus' own checker (tools/promtool.sh).
#include <cstdio>
#include <string>

#include "cloister/api/metrics.h"
#include "cloister/api/metrics_sample.h"

int main() {
  cloister::api::ApiCounters counters;
  const std::string text =
      PrometheusText(cloister::api::SampleMetrics(&counters));
  std::fputs(text.c_str(), stdout);
  return 0;
}
