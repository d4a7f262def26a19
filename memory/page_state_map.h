// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PAGE_STATE_MAP_H_
#define CLOISTER_MEMORY_PAGE_STATE_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/memory/guest_address.h"

namespace cloister::memory {

enum class PageState : uint8_t {
  kNotRam = 0,  // No memory here; the state of every page at first.
  kPrivate,     // The guest's own; no device, no API handler.
  kShared,      // The guest shares it with the monitor.
  kAliased,     // One memory in both views: shared, never offered to devices.
};

// "not-ram", "private", "shared", "aliased".
absl::string_view PageStateName(PageState state);

struct StateRange {
  GuestRange range;
  PageState state;
  bool operator==(const StateRange&) const = default;
};

// The state of each of 2^40 guest pages (addresses below 2^52). Knows addresses
// without any C-bit. docs/page_state_map.md explains the data structure.
//
// Stores maximal ranges, and bitmaps where ranges are dense: memory never
// exceeds 4 bits per page of the span in use, and a range of any size is one
// entry. Pages that are not RAM cost nothing.
//
// Thread-safe. Readers see the map as it was between two calls of Set, wait for
// nobody (neither for writers nor for other readers), and take tens of
// nanoseconds. Set, Get, ForEachRange and IsWholly are sequentially consistent
// with each other and with the caller's seq_cst atomics. Writers wait for each
// other. Whoever decides and then acts on the answer must
// hold something that keeps it true: a lease, or the broker's lock.
class PageStateMap {
 public:
  // Pages at and above this address are kNotRam and cannot be set.
  static constexpr uint64_t kEndAddress = uint64_t{1} << 52;

  PageStateMap();
  ~PageStateMap();
  PageStateMap(const PageStateMap&) = delete;
  PageStateMap& operator=(const PageStateMap&) = delete;

  // Makes every page of `range` `state`, at once for all readers. Takes
  // O(log n + ranges replaced). InvalidArgument, changing nothing, if `range`
  // is not page-aligned or does not end at or before kEndAddress. A call that
  // changes no page has no effect, on generations neither.
  absl::Status Set(const GuestRange& range, PageState state);

  PageState Get(GuestAddress address) const;

  // Calls `visit` for the ranges of equal state that `range` consists of, in
  // ascending order, clipped to it but otherwise maximal, until it returns
  // false. All from one moment. `visit` may call anything here, Set included
  // (it goes on seeing the old ranges), but memory that writers replace is kept
  // until it returns. True iff `visit` never returned false.
  bool ForEachRange(const GuestRange& range,
                    absl::FunctionRef<bool(const StateRange&)> visit) const;

  // Whether each page that `range` touches is in `state`.
  bool IsWholly(const GuestRange& range, PageState state) const;

  // Grows by one with every Set that changes a page.
  uint64_t CurrentGeneration() const;

  // False only if no page of `address`'s neighbourhood changed after
  // CurrentGeneration() returned `generation`: read it before KVM_RUN, and a
  // fault of that run whose page did not change since is not stale. A change
  // elsewhere may answer true too: in the same 2 MiB, or, for sets larger than
  // 16 such blocks, the same GiB or more; or, rarely, where counters are shared
  // by chance. Then the vCPU just runs again.
  bool ChangedSince(GuestAddress address, uint64_t generation) const;

  // Bytes in `state`. The four add up to kEndAddress while no Set is running.
  uint64_t bytes(PageState state) const;

  // Ranges and bitmaps stored. Neighbours in equal states are one range.
  size_t entry_count() const;
  // Bytes this object owns now, itself and replaced parts that readers may
  // still see included.
  size_t memory_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_PAGE_STATE_MAP_H_
