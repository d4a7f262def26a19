// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_EXAMPLES_DMA_MIRROR_H_
#define CLOISTER_EXAMPLES_DMA_MIRROR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/mutex.h"
#include "cloister/examples/dma_mapper.h"
#include "cloister/memory/conversion_listener.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::examples {

// Keeps a DmaMapper at what the guest shares: register it with the conversion
// broker (AddListener).
//
// An entry covers at most one aligned block of 2 MiB, so that taking back a
// page disturbs no more than that: its entry is replaced by those for the rest.
// Where memory is replaced behind pages that stay shared (a balloon, a reset),
// their entries are taken away and come back as they were, which takes none
// more. For that moment the device does not reach the rest of an entry; one
// that minds is paused by whoever owns it. Pages that are shared one by one
// take an entry each, until Compact.
//
// Entries are reserved in Prepare, for the worst that the set can come to, and
// only Prepare refuses. Should the mapper itself fail later, fatal() says so:
// the device then reaches too little, never too much.
class DmaMirror : public memory::ConversionListener {
 public:
  static constexpr uint64_t kBlock = uint64_t{2} << 20;

  // `mapper` must outlive this object and is used by it alone. `block`, for
  // tests, is another size than 2 MiB: a power of two of at least one page.
  explicit DmaMirror(DmaMapper* mapper, uint64_t block = kBlock)
      : mapper_(mapper), block_(block) {}

  // Maps what is shared in `range` already. Before AddListener, with no
  // conversion under way. ResourceExhausted, with nothing mapped, if it takes
  // too many entries.
  absl::Status MapExisting(const memory::PageStateMap& states,
                           const memory::GuestRange& range);
  // Merges neighbours of a block. While the device rests, and no conversion is
  // under way.
  void Compact();

  absl::string_view name() const override { return "dma"; }
  absl::Status Prepare(const memory::ConversionSet& set) override;
  void Rollback(const memory::ConversionSet& part) noexcept override;
  void Commit(const memory::ConversionSet& part) noexcept override;
  void UnmapShared(const memory::GuestRange& chunk) noexcept override;
  void MapShared(const memory::GuestRange& chunk) noexcept override;

  size_t entries();
  size_t reserved();
  absl::Status fatal();

 private:
  struct OpenSet {
    memory::PageState to;
    std::vector<memory::GuestRange> ranges;  // as prepared
    uint64_t bytes_left = 0;  // neither committed nor rolled back
    size_t reserved = 0;
  };
  struct Entry {
    uint64_t end;  // exclusive
    bool mapped;   // false while memory behind some of it is being replaced
  };
  using Entries = std::map<uint64_t, Entry>;  // by start

  size_t EntriesToShare(const std::vector<memory::GuestRange>& ranges) const;
  size_t Free() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t EntriesToTakeBack(const std::vector<memory::GuestRange>& ranges)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  OpenSet* FindSet(const memory::GuestRange& chunk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Settle(const memory::ConversionSet& part)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One entry more or less; those that `set` adds come from its reservation.
  void Add(uint64_t start, uint64_t end, OpenSet* set)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(Entries::iterator entry, OpenSet* set)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the mapper have `entry` unless some of it is being replaced.
  void Sync(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first entry that reaches into `range`, if one does.
  Entries::iterator FirstOf(const memory::GuestRange& range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Calls Sync for every entry that reaches into `range`.
  void SyncAll(const memory::GuestRange& range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes away the entries that end or begin where `chunk` does, in its blocks;
  // returns it with what they had.
  memory::GuestRange Joined(const memory::GuestRange& chunk, OpenSet* set)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds one entry for each block of `range`.
  void AddBlocks(const memory::GuestRange& range, OpenSet* set)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Note(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  DmaMapper* const mapper_;
  const uint64_t block_;
  base::Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  // Between UnmapShared and MapShared outside of any set; disjoint.
  std::vector<memory::GuestRange> replaced_ ABSL_GUARDED_BY(mutex_);
  size_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, OpenSet> open_ ABSL_GUARDED_BY(mutex_);
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::examples

#endif  // CLOISTER_EXAMPLES_DMA_MIRROR_H_
