// SPDX-License-Identifier: Apache-2.0
//
// Where the lease protocol keeps its numbers. Internal to memory/.
#ifndef CLOISTER_MEMORY_LEASE_COUNTERS_H_
#define CLOISTER_MEMORY_LEASE_COUNTERS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/lease_env.h"

namespace cloister::memory {

// How many leases each guest page has, and whether new ones are blocked there.
//
// There is a counter for each 4 KiB page, and coarser ones for blocks of 64 KiB
// and 2 MiB: a range counts in the fewest aligned blocks that it divides into,
// and whoever asks looks at every block that its own range touches. So only
// real overlaps meet, and ranges without a common page share no counter.
// Counters are zero pages that use memory only near pages that were leased,
// about 1/1000 of those.
//
// Thread-safe, lock-free and sequentially consistent but for Cover; what order
// of calls means something is BasicLeaseTable's affair. Env is RealLeaseEnv, or
// a scheduler that a test puts in its place. Ranges are rounded out to pages
// and must have been covered.
template <typename Env>
class LeaseCounters {
 public:
  static absl::StatusOr<LeaseCounters> Create() {
    absl::StatusOr<ZeroPages> directory =
        ZeroPages::Create(kDirectoryEntries * sizeof(Leaf*));
    if (!directory.ok()) return std::move(directory).status();
    return LeaseCounters(*std::move(directory));
  }

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

  // Adds `delta` (2^32 - 1: minus one) to the leases of `range`.
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
  void Block(const GuestRange& range) {
    ForEachWord(range, [](uint64_t* word, uint64_t mask) {
      Env::SetBits(word, mask);
      return true;
    });
  }
  void Unblock(const GuestRange& range) {
    ForEachWord(range, [](uint64_t* word, uint64_t mask) {
      Env::ClearBits(word, mask);
      return true;
    });
  }
  // Whether some page of `range` is blocked.
  bool Blocked(const GuestRange& range) const {
    return !ForEachWord(range, [](uint64_t* word, uint64_t mask) {
      return (Env::Load(word) & mask) == 0;
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

 private:
  static constexpr uint64_t kLeafPages = uint64_t{1} << 18;  // 1 GiB
  static constexpr uint64_t kDirectoryEntries = uint64_t{1} << 22;
  static constexpr size_t kLevels = Env::kLevelShifts.size();

  struct Leaf {
    // Level after level; all levels above the first are smaller than it.
    uint32_t counters[2 * kLeafPages];
    uint64_t blocked[kLeafPages / 64];  // a bit for each page
  };

  explicit LeaseCounters(ZeroPages directory)
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

  bool PageLeased(uint64_t gfn) const {
    for (size_t level = 0; level < kLevels; ++level) {
      if (Env::Load(Counter(gfn, level)) != 0) return true;
    }
    return false;
  }

  ZeroPages directory_;
  std::vector<ZeroPages> storage_;  // the leaves
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_LEASE_COUNTERS_H_
