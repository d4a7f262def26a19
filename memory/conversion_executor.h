// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_EXECUTOR_H_
#define CLOISTER_MEMORY_CONVERSION_EXECUTOR_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/conversion_listener.h"
#include "cloister/memory/conversion_stats.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/lease_table.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/pending_private.h"
#include "cloister/memory/range_set.h"

namespace cloister::memory {

// Pages that should have been freed and could not be. Thread-safe.
class LeftoverPages {
 public:
  // Ranges remembered for each side. A backend that cannot free at all must
  // not cost the monitor its memory; a reconciliation finds the others too.
  static constexpr size_t kMaxRanges = 65536;

  void Add(BackingSide side, const GuestRange& range);
  void Remove(BackingSide side, const GuestRange& range);
  void Clear();
  uint64_t bytes();
  // Everything that was left on `side`.
  std::vector<GuestRange> All(BackingSide side);

 private:
  RangeSet& Of(BackingSide side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return side == BackingSide::kShared ? shared_ : private_;
  }
  base::Mutex mutex_;
  RangeSet shared_ ABSL_GUARDED_BY(mutex_);
  RangeSet private_ ABSL_GUARDED_BY(mutex_);
};

// Carries out conversions whose pages the caller has to itself: the steps and
// their order, and nothing about who asked or whether they may. Thread-safe
// for disjoint pages. Internal to memory/; see docs/conversion.md.
class ConversionExecutor {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  // What it works on; all outlive the executor.
  struct Parts {
    PageBackend* backend;
    LeaseTable* leases;
    PendingPrivate* pending;
    LeftoverPages* leftovers;
    ConversionStatsCollector* stats;
    // Makes a new state visible: PageStateMap::Set.
    std::function<absl::Status(const GuestRange&, PageState)> publish;
    // Waits for so long; false, early, if the VM goes away.
    std::function<bool(std::chrono::nanoseconds)> delay;
  };

  // How long one Apply may take.
  struct Limits {
    // A lease may hold up a page until then.
    Deadline lease_deadline;
    // With one backing, or where the backend finds a page busy, it is waited
    // for until then, and then given up: undoing what was done of that chunk
    // may take another second.
    Deadline busy_deadline;
    // Asked before each chunk, if set: why to stop there, or OK to go on.
    std::function<absl::Status()> stop;
  };

  struct Result {
    absl::Status status;      // why it stopped, if it did
    uint64_t bytes_done = 0;  // in whole chunks, from the start of the set
    bool fatal = false;  // a chunk is neither old nor new: the VM must stop
  };

  explicit ConversionExecutor(Parts parts) : parts_(std::move(parts)) {}

  // Converts `set`, telling `listeners` in their order.
  Result Apply(const ConversionSet& set,
               absl::Span<ConversionListener* const> listeners,
               const Limits& limits);

  // Frees what of `range` is pending-private and not leased.
  void FreePending(const GuestRange& range);
  // Frees one side of pages that the map has on the other side; what cannot be
  // freed becomes a leftover. Returns the bytes freed.
  uint64_t FreeSide(BackingSide side, const GuestRange& range);

 private:
  // One Apply: its arguments.
  struct Job {
    PageState to;
    absl::Span<ConversionListener* const> listeners;
    const Limits& limits;
  };

  absl::Status Prepare(const ConversionSet& set,
                       absl::Span<ConversionListener* const> listeners);
  Result ApplyChunks(const ConversionSet& set, const Job& job);
  static void Finish(const ConversionSet& set, uint64_t bytes_done,
                     absl::Span<ConversionListener* const> listeners);
  Result ApplyChunk(const GuestRange& chunk, const Job& job);
  Result ToPrivate(const GuestRange& chunk, const Job& job);
  Result ToShared(const GuestRange& chunk, const Job& job);
  // Attribute, then publish; undone if either fails.
  Result SwitchState(const GuestRange& chunk, const Job& job);
  PageProgress SetAttributes(const GuestRange& range, PageState to,
                             Deadline busy_deadline);
  Result Undo(const GuestRange& chunk, uint64_t bytes, const Job& job,
              absl::Status cause);
  void FreeSharedCopy(const GuestRange& chunk, bool idle);
  bool two_backings() const {
    return parts_.backend->content() == ConversionContent::kLost;
  }

  const Parts parts_;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_EXECUTOR_H_
