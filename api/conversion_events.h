// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CONVERSION_EVENTS_H_
#define CLOISTER_API_CONVERSION_EVENTS_H_

#include <cstdint>
#include <optional>

#include "cloister/api/event_hub.h"
#include "cloister/memory/conversion_stats.h"

namespace cloister::api {

// Makes events of conversions: one for all that were done since the one before,
// however many, so a guest that converts page after page makes no more events
// than one that does not. One thread.
class ConversionEvents {
 public:
  // Publishes "conversions" at the first call, and where the totals are others
  // than at the one before.
  void Publish(const memory::ConversionStats& now, EventHub* events);

 private:
  struct Totals {
    uint64_t requests = 0;
    uint64_t to_shared_bytes = 0;
    uint64_t to_private_bytes = 0;
    uint64_t failed = 0;
    uint64_t refused = 0;
    bool operator==(const Totals&) const = default;
  };
  static Totals TotalsOf(const memory::ConversionStats& stats);

  std::optional<Totals> last_;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_CONVERSION_EVENTS_H_
