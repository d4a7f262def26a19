// SPDX-License-Identifier: Apache-2.0
//
// What the API shows of a guest's memory: states of pages, never content.
#ifndef CLOISTER_API_MEMORY_VIEW_H_
#define CLOISTER_API_MEMORY_VIEW_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/api/json.h"
#include "cloister/api/machine.h"
#include "cloister/memory/conversion_stats.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::api {

inline constexpr size_t kMaxAttributeRanges = 1024;

// GET /memory/attributes: the ranges that `range` consists of, at most
// kMaxAttributeRanges, and where to go on.
Json AttributesJson(const memory::PageStateMap& states,
                    const memory::GuestRange& range);

// GET /memory/conversions.
Json ConversionsJson(const memory::ConversionStats& stats);

// One stretch of the address space.
struct MapSegment {
  enum class Kind { kRam, kWindow, kHole };
  Kind kind = Kind::kHole;
  std::string name;
  memory::GuestRange range;
  // RAM only: bytes by PageState in each of the equal parts of `range` (the
  // last may be shorter).
  uint64_t cell_bytes = 0;
  std::vector<std::array<uint64_t, 4>> cells;
};

// The address space up to the end of the last segment. However the guest has
// mixed its pages, there are about `cells` cells, the same number for each
// stretch of RAM (one at least). A window that is RAM gives it its name.
std::vector<MapSegment> BuildMap(const memory::PageStateMap& states,
                                 absl::Span<const AddressWindow> windows,
                                 size_t cells);

// GET /memory/map.
Json MapJson(absl::Span<const MapSegment> map);

}  // namespace cloister::api

#endif  // CLOISTER_API_MEMORY_VIEW_H_
