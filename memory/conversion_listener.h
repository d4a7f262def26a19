// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_LISTENER_H_
#define CLOISTER_MEMORY_CONVERSION_LISTENER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::memory {

// A batch of pages that change state together. `ranges` are page-aligned,
// ascending, apart from each other, and hold only pages that are in the other
// state now.
struct ConversionSet {
  // At most this many ranges: a larger request becomes several sets.
  static constexpr size_t kMaxRanges = 1024;

  uint64_t id = 0;  // the same for Prepare, Rollback and Commit of one batch
  PageState to = PageState::kPrivate;  // kPrivate or kShared
  bool implicit = false;               // asked for by a memory fault
  std::vector<GuestRange> ranges;

  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const GuestRange& range : ranges) sum += range.size();
    return sum;
  }
};

// Something that holds on to guest memory, or wants to know what becomes of
// it: a DMA mapper, migration, a statistics collector.
//
// For each set: Prepare; then for each chunk of it UnmapShared or MapShared;
// then Commit for the part that was converted and Rollback for the part that
// was not, each at most once, in this order, and together exactly the prepared
// set. Sets of disjoint ranges may be in progress at once on different
// threads. A listener must not call the broker.
class ConversionListener {
 public:
  virtual ~ConversionListener() = default;

  // Names the listener in statistics and messages. Constant.
  virtual absl::string_view name() const = 0;

  // The only chance to refuse: reserve here whatever Commit and MapShared will
  // need (IOMMU entries, say). On an error this listener sees nothing more of
  // the set, and those prepared before it roll back, last first.
  virtual absl::Status Prepare(const ConversionSet& set) = 0;

  // `part` (the set's id, some of its ranges) stays as it was.
  virtual void Rollback(const ConversionSet& part) noexcept = 0;

  // `part` has the new state.
  virtual void Commit(const ConversionSet& part) noexcept = 0;

  // DMA hooks, one chunk at a time. UnmapShared comes before the pages turn
  // private: when it returns, no device reaches them through this listener.
  //
  // Pages that stay shared may have their memory replaced by new pages, when
  // the guest gave them up or the VM is reset: UnmapShared, then MapShared for
  // the same range, with no set around them that has these pages. Nothing was
  // prepared, so it must not take more than the listener held before. Between
  // the two, sets of other pages may begin and end.
  virtual void UnmapShared(const GuestRange& /*chunk*/) noexcept {}
  // MapShared comes once the pages are shared and their private side is gone;
  // also after UnmapShared when the chunk could not be converted after all.
  virtual void MapShared(const GuestRange& /*chunk*/) noexcept {}
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_LISTENER_H_
