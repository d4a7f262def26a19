// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/conversion_events.h"

#include <nlohmann/json.hpp>

namespace cloister::api {

ConversionEvents::Totals ConversionEvents::TotalsOf(
    const memory::ConversionStats& stats) {
  Totals totals;
  for (size_t i = 0; i < stats.to_shared.size(); ++i) {
    totals.requests +=
        stats.to_shared[i].requests + stats.to_private[i].requests;
    totals.to_shared_bytes += stats.to_shared[i].bytes;
    totals.to_private_bytes += stats.to_private[i].bytes;
  }
  totals.failed = stats.failed;
  totals.refused = stats.refused;
  return totals;
}

void ConversionEvents::Publish(const memory::ConversionStats& now,
                               EventHub* events) {
  const Totals totals = TotalsOf(now);
  if (last_ == totals) return;
  const Totals before = last_.value_or(Totals());
  events->Publish(
      "conversions",
      {{"requests", totals.requests - before.requests},
       {"to_shared_bytes", totals.to_shared_bytes - before.to_shared_bytes},
       {"to_private_bytes", totals.to_private_bytes - before.to_private_bytes},
       {"failed", totals.failed - before.failed},
       {"refused", totals.refused - before.refused},
       {"private_bytes", now.private_bytes},
       {"shared_bytes", now.shared_bytes},
       {"double_backed_bytes", now.double_backed_bytes}});
  last_ = totals;
}

}  // namespace cloister::api
