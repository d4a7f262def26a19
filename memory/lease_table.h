// SPDX-License-Identifier: Apache-2.0
//
// Knows who is using which guest pages, and lets a conversion wait until nobody
// is. Internal to memory/: everybody else holds a SharedView.
#ifndef CLOISTER_MEMORY_LEASE_TABLE_H_
#define CLOISTER_MEMORY_LEASE_TABLE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/lease_counters.h"
#include "cloister/memory/lease_env.h"

namespace cloister::memory {

// The lease protocol:
//
//   a lease       1. increments its counters   2. checks the pages' state
//   a conversion  1. marks the pages blocked   2. waits for their counters
//
// All four are sequentially consistent, so at least one side sees the other.
// Taking and ending a lease is lock-free while no conversion waits; leases on
// different pages share nothing (see LeaseCounters).
//
// Env is RealLeaseEnv, or a scheduler that a test puts in its place. Ranges
// are rounded out to pages and must have been covered.
template <typename Env>
class BasicLeaseTable {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  using Notifier = typename Env::Notifier;

  static absl::StatusOr<std::unique_ptr<BasicLeaseTable>> Create() {
    absl::StatusOr<LeaseCounters<Env>> counters = LeaseCounters<Env>::Create();
    if (!counters.ok()) return std::move(counters).status();
    return std::unique_ptr<BasicLeaseTable>(
        new BasicLeaseTable(*std::move(counters)));
  }
  BasicLeaseTable(const BasicLeaseTable&) = delete;
  BasicLeaseTable& operator=(const BasicLeaseTable&) = delete;

  // Makes room for counters for `range`, which lies below 2^52. Not
  // thread-safe: call it before anything else. ResourceExhausted without room.
  absl::Status Cover(const GuestRange& range) { return counters_.Cover(range); }
  // Whether there are counters for all of `range`.
  bool Covers(const GuestRange& range) const { return counters_.Covers(range); }

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

  void Unblock(const GuestRange& range) { counters_.Unblock(range); }

  // Whether some lease overlaps `range` now.
  bool AnyLeased(const GuestRange& range) const {
    return counters_.AnyLeased(range);
  }
  // Calls `visit` for each maximal run of pages of `range` that are leased, or
  // are not, in ascending order.
  void ForEachRun(
      const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&, bool leased)> visit) const {
    counters_.ForEachRun(range, visit);
  }

  // Tells whoever registers that leases end.
  Notifier& notifier() { return notifier_; }

 private:
  explicit BasicLeaseTable(LeaseCounters<Env> counters)
      : counters_(std::move(counters)) {}

  void Count(const GuestRange& range, uint32_t delta) {
    counters_.Count(range, delta);
  }
  void Block(const GuestRange& range) { counters_.Block(range); }
  bool Blocked(const GuestRange& range) const {
    return counters_.Blocked(range);
  }

  LeaseCounters<Env> counters_;
  Notifier notifier_;
};

using LeaseTable = BasicLeaseTable<RealLeaseEnv>;

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_LEASE_TABLE_H_
