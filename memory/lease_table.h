// SPDX-License-Identifier: Apache-2.0
//
// Counts who is using which guest pages, and lets a conversion wait until
// nobody is. Internal to memory/: everybody else holds a SharedView.
#ifndef CLOISTER_MEMORY_LEASE_TABLE_H_
#define CLOISTER_MEMORY_LEASE_TABLE_H_

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/lease_env.h"

namespace cloister::memory {

// The lease protocol:
//
//   a lease       1. increments its counters   2. checks the pages' state
//   a conversion  1. marks the pages blocked   2. waits for their counters
//
// All four are sequentially consistent, so at least one side sees the other.
//
// There is a counter for each 4 KiB page, and coarser ones for blocks of 64 KiB
// and 2 MiB: a lease counts in the fewest aligned blocks that its range divides
// into, and a conversion looks at every block that its range touches. So only
// real overlaps meet, and leases on different pages share no counter. Taking
// and ending a lease is lock-free while no conversion waits. Counters are zero
// pages that use memory only near pages that were leased, about 1/1000 of
// those.
//
// Env is RealLeaseEnv, or a scheduler that a test puts in its place. Ranges
// are rounded out to pages and must have been covered.
template <typename Env>
class BasicLeaseTable {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  using Notifier = typename Env::Notifier;

  static absl::StatusOr<std::unique_ptr<BasicLeaseTable>> Create() {
    absl::StatusOr<ZeroPages> directory =
        ZeroPages::Create(kDirectoryEntries * sizeof(Leaf*));
    if (!directory.ok()) return std::move(directory).status();
    return std::unique_ptr<BasicLeaseTable>(
        new BasicLeaseTable(*std::move(directory)));
  }
  BasicLeaseTable(const BasicLeaseTable&) = delete;
  BasicLeaseTable& operator=(const BasicLeaseTable&) = delete;

  // Makes room for counters for `range`, which lies below 2^52. Not
  // thread-safe: call it before anything else. ResourceExhausted without room.
  absl::Status Cover(const GuestRange& range) {
    const uint64_t last = LastGfn(range) / kLeafPages;
    for (uint64_t i = FirstGfn(range) / kLeafPages; i <= last; ++i) {
      if (i >= kDirectoryEntries) {
        return absl::InvalidArgumentError("address above 2^52");
      }
      if (leaves()[i] != nullptr) continue;
      absl::StatusOr<ZeroPages> leaf = ZeroPages::Create(sizeof(Leaf));
      if (!leaf.ok()) return std::move(leaf).status();
      leaves()[i] = leaf->template as<Leaf>();
      storage_.push_back(*std::move(leaf));
    }
    return absl::OkStatus();
  }

  // Whether there are counters for all of `range`.
  bool Covers(const GuestRange& range) const {
    const uint64_t last = LastGfn(range) / kLeafPages;
    if (last >= kDirectoryEntries) return false;
    for (uint64_t i = FirstGfn(range) / kLeafPages; i <= last; ++i) {
      if (leaves()[i] == nullptr) return false;
    }
    return true;
  }

  // Takes a lease on `range` and returns nullopt, or returns why not: `blocked`
  // if a conversion holds some of the pages, else what `check()` says about
  // their state (an std::optional<Refusal>, nullopt for "fine").
  template <typename Refusal, typename Check>
  std::optional<Refusal> TryAcquire(const GuestRange& range, Refusal blocked,
                                    Check check) {
    std::optional<Refusal> refusal;
    if constexpr (Env::kLeaseChecksFirst) {
      refusal = Blocked(range) ? std::optional<Refusal>(blocked) : check();
      if (!refusal.has_value()) Count(range, 1);
      return refusal;
    }
    Count(range, 1);
    refusal = Blocked(range) ? std::optional<Refusal>(blocked) : check();
    if (refusal.has_value()) Release(range);
    return refusal;
  }

  // Ends a lease that TryAcquire gave on the same range.
  void Release(const GuestRange& range) {
    Count(range, ~uint32_t{0});  // minus one
    if (notifier_.HasWaiters()) notifier_.Notify();
  }

  // Blocks new leases on `range`, then waits until `deadline` for those that
  // exist. True if none is left. `range` stays blocked either way, until
  // Unblock. Nobody else may have blocked a page of `range`.
  bool BlockAndWait(const GuestRange& range, Deadline deadline) {
    if constexpr (Env::kConversionWaitsFirst) {
      bool idle = WaitIdle(range, deadline);
      Block(range);
      return idle;
    }
    Block(range);
    return WaitIdle(range, deadline);
  }

  // The second half of BlockAndWait, for a range that is blocked already.
  bool WaitIdle(const GuestRange& range, Deadline deadline) {
    if (!AnyLeased(range)) return true;
    notifier_.AddWaiter();
    bool idle = false;
    for (bool in_time = true; in_time && !idle;) {
      uint64_t epoch = notifier_.Epoch();
      idle = !AnyLeased(range);
      if (!idle) in_time = notifier_.WaitPast(epoch, deadline);
    }
    notifier_.RemoveWaiter();
    return idle || !AnyLeased(range);
  }

  void Unblock(const GuestRange& range) {
    ForEachWord(range, [](uint64_t* word, uint64_t mask) {
      Env::ClearBits(word, mask);
      return true;
    });
  }

  // Whether some lease overlaps `range` now.
  bool AnyLeased(const GuestRange& range) const {
    uint64_t first = FirstGfn(range);
    const uint64_t last = LastGfn(range);
    for (;;) {
      const uint64_t leaf_last = std::min(last, first | (kLeafPages - 1));
      for (size_t level = 0; level < kLevels; ++level) {
        const uint32_t* end = Counter(leaf_last, level);
        for (uint32_t* c = Counter(first, level); c <= end; ++c) {
          if (Env::Load(c) != 0) return true;
        }
      }
      if (leaf_last == last) return false;
      first = leaf_last + 1;
    }
  }

  // Calls `visit` for each maximal run of pages of `range` that are leased, or
  // are not, in ascending order.
  void ForEachRun(
      const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&, bool leased)> visit) const {
    uint64_t run = FirstGfn(range);
    const uint64_t last = LastGfn(range);
    bool leased = PageLeased(run);
    for (uint64_t gfn = run + 1; gfn <= last; ++gfn) {
      bool now = PageLeased(gfn);
      if (now == leased) continue;
      visit(Pages(run, gfn - 1), leased);
      run = gfn;
      leased = now;
    }
    visit(Pages(run, last), leased);
  }

  // Tells whoever registers that leases end.
  Notifier& notifier() { return notifier_; }

 private:
  static constexpr uint64_t kLeafPages = uint64_t{1} << 18;  // 1 GiB
  static constexpr uint64_t kDirectoryEntries = uint64_t{1} << 22;
  static constexpr size_t kLevels = Env::kLevelShifts.size();

  struct Leaf {
    // Level after level; all levels above the first are smaller than it.
    uint32_t counters[2 * kLeafPages];
    uint64_t blocked[kLeafPages / 64];  // a bit for each page
  };

  explicit BasicLeaseTable(ZeroPages directory)
      : directory_(std::move(directory)) {}

  static uint64_t FirstGfn(const GuestRange& range) {
    return range.start().gfn().value();
  }
  static uint64_t LastGfn(const GuestRange& range) {
    return range.last().gfn().value();
  }
  static GuestRange Pages(uint64_t first, uint64_t last) {
    return *GuestRange::Create(GuestAddress::FromGfn(Gfn(first)),
                               (last - first + 1) << kPageShift);
  }
  static constexpr uint64_t LevelBase(size_t level) {
    uint64_t base = 0;
    for (size_t i = 0; i < level; ++i) {
      base += kLeafPages >> Env::kLevelShifts[i];
    }
    return base;
  }

  Leaf** leaves() const { return directory_.as<Leaf*>(); }
  uint32_t* Counter(uint64_t gfn, size_t level) const {
    uint64_t block = (gfn % kLeafPages) >> Env::kLevelShifts[level];
    return &leaves()[gfn / kLeafPages]->counters[LevelBase(level) + block];
  }

  // Adds to the counters of the blocks that make up `range`.
  void Count(const GuestRange& range, uint32_t delta) {
    uint64_t gfn = FirstGfn(range);
    const uint64_t end = LastGfn(range) + 1;
    while (gfn < end) {
      size_t level = kLevels - 1;
      while (level > 0 && !Fits(gfn, end, level)) --level;
      Env::Add(Counter(gfn, level), delta);
      gfn += uint64_t{1} << Env::kLevelShifts[level];
    }
  }
  static bool Fits(uint64_t gfn, uint64_t end, size_t level) {
    const uint64_t pages = uint64_t{1} << Env::kLevelShifts[level];
    return gfn % pages == 0 && pages <= end - gfn;
  }

  // Calls `visit` with each word of `blocked` and the bits in it that belong to
  // `range`, until it returns false.
  template <typename Visit>
  bool ForEachWord(const GuestRange& range, Visit visit) const {
    uint64_t gfn = FirstGfn(range);
    const uint64_t last = LastGfn(range);
    while (gfn <= last) {
      const uint64_t word_last = std::min(last, gfn | 63);
      const uint64_t count = word_last - gfn + 1;
      const uint64_t mask = (~uint64_t{0} >> (64 - count)) << (gfn % 64);
      Leaf* leaf = leaves()[gfn / kLeafPages];
      if (!visit(&leaf->blocked[gfn % kLeafPages / 64], mask)) return false;
      gfn = word_last + 1;
    }
    return true;
  }

  void Block(const GuestRange& range) {
    ForEachWord(range, [](uint64_t* word, uint64_t mask) {
      Env::SetBits(word, mask);
      return true;
    });
  }
  bool Blocked(const GuestRange& range) const {
    return !ForEachWord(range, [](uint64_t* word, uint64_t mask) {
      return (Env::Load(word) & mask) == 0;
    });
  }
  bool PageLeased(uint64_t gfn) const {
    for (size_t level = 0; level < kLevels; ++level) {
      if (Env::Load(Counter(gfn, level)) != 0) return true;
    }
    return false;
  }

  ZeroPages directory_;
  std::vector<ZeroPages> storage_;  // the leaves
  Notifier notifier_;
};

using LeaseTable = BasicLeaseTable<RealLeaseEnv>;

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_LEASE_TABLE_H_
