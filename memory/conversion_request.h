// SPDX-License-Identifier: Apache-2.0
//
// Pure functions from what a guest or the host asks for to what has to change.
#ifndef CLOISTER_MEMORY_CONVERSION_REQUEST_H_
#define CLOISTER_MEMORY_CONVERSION_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/memory/conversion_listener.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::memory {

// A decoded KVM_HC_MAP_GPA_RANGE hypercall.
struct MapGpaRange {
  GuestRange range;
  PageState to;        // kPrivate or kShared
  uint64_t page_size;  // what the guest says it maps with; a hint only

  bool operator==(const MapGpaRange&) const = default;
};

// Decodes the hypercall's three arguments (Linux: Documentation/virt/kvm/x86/
// hypercalls.rst, KVM_HC_MAP_GPA_RANGE): `npages` counts 4 KiB pages; bit 4 of
// `attributes` is set for private ("encrypted") and clear for shared, whatever
// the page-size hint in bits 3:0; bits 63:5 must be zero. InvalidArgument for
// what is misaligned, empty, wraps, or sets reserved bits.
absl::StatusOr<MapGpaRange> DecodeMapGpaRange(uint64_t gpa, uint64_t npages,
                                              uint64_t attributes);

// Sorts page-aligned ranges and joins those that touch or overlap. Adds the
// number of ranges that were absorbed to `*merges`. InvalidArgument if there
// is no range, or one is not page-aligned or above what PageStateMap knows.
absl::StatusOr<std::vector<GuestRange>> CoalesceRanges(
    absl::Span<const GuestRange> ranges, uint64_t* merges);

// Whether a page in `state` can be made the other one of private and shared.
inline bool IsConvertible(PageState state) {
  return state == PageState::kPrivate || state == PageState::kShared;
}

// What a request to make some ranges `to` comes to.
struct RequestEffect {
  uint64_t changed_bytes = 0;  // in the other state now
  uint64_t same_bytes = 0;     // in this state already
  uint64_t aliased_bytes = 0;  // clipped: succeed and change nothing
};

// InvalidArgument unless every page of `ranges` is RAM. Changes nothing. The
// caller keeps the states of `ranges` from changing meanwhile.
absl::StatusOr<RequestEffect> CheckRequest(const PageStateMap& states,
                                           absl::Span<const GuestRange> ranges,
                                           PageState to);

// Walks the pages of a request that have to change, in batches small enough to
// hold, however fragmented memory is. No-ops and aliased pages are left out,
// neighbours are one range.
class ConversionWalker {
 public:
  // `ranges` as CoalesceRanges returns them; must outlive the walker, as must
  // `states`.
  ConversionWalker(const PageStateMap* states,
                   absl::Span<const GuestRange> ranges, PageState to)
      : states_(states), ranges_(ranges), to_(to) {}

  // The next ranges, at most `limit` of them; empty once all were returned.
  std::vector<GuestRange> Next(size_t limit = ConversionSet::kMaxRanges);

 private:
  const PageStateMap* const states_;
  const absl::Span<const GuestRange> ranges_;
  const PageState to_;
  size_t index_ = 0;     // the range that is being walked
  uint64_t offset_ = 0;  // bytes of it that are done
};

// Walks what a range of a map consists of, in batches small enough to hold. The
// map may change between two batches; each is of one moment.
class StateWalker {
 public:
  // `map` must outlive the walker.
  StateWalker(const PageStateMap* map, const GuestRange& range)
      : map_(map), rest_(range) {}

  // The next ranges, at most `limit` (1 or more) of them; empty once all were
  // returned.
  std::vector<StateRange> Next(size_t limit = ConversionSet::kMaxRanges);

 private:
  const PageStateMap* const map_;
  std::optional<GuestRange> rest_;
};

// The next chunk at or after `offset` into `range`: up to the next multiple of
// `chunk` (a power of two) of the guest-physical address.
GuestRange ChunkAt(const GuestRange& range, uint64_t offset, uint64_t chunk);

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_REQUEST_H_
