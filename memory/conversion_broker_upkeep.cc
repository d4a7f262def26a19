// SPDX-License-Identifier: Apache-2.0
//
// What the broker does for the VM as a whole: declaring RAM, listeners, the
// balloon, reset, reconciliation, statistics.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/memory/conversion_broker.h"

namespace cloister::memory {
namespace {

using std::chrono::steady_clock;

// Pages that one step of a reconciliation holds up.
constexpr uint64_t kReconcileWindow = uint64_t{32} << 20;

GuestRange Everything() {
  return *GuestRange::Create(GuestAddress(0), PageStateMap::kEndAddress);
}

}  // namespace

absl::Status ConversionBroker::AddRam(const GuestRange& range,
                                      PageState state) {
  if (started_.load()) {
    return absl::FailedPreconditionError("the guest has started");
  }
  if (!range.IsPageAligned() || state == PageState::kNotRam ||
      !view_->leases().Covers(range)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot declare ", range.ToString(), " ", PageStateName(state)));
  }
  Turn turn = EnterInner(range);
  if (!states_->IsWholly(range, PageState::kNotRam)) {
    return absl::AlreadyExistsError(
        absl::StrCat("some of ", range.ToString(), " is RAM already"));
  }
  if (state != PageState::kAliased) {
    RETURN_IF_ERROR(backend_->SetAttributes(range, state).status);
  }
  RETURN_IF_ERROR(initial_.Set(range, state));
  if (state == PageState::kShared) budget_.Take(range.size());
  return states_->Set(range, state);
}

void ConversionBroker::GuestStarted() { started_.store(true); }

void ConversionBroker::AddListener(ConversionListener* listener) {
  Turn turn = EnterInner(Everything());
  base::MutexLock lock(&mutex_);
  listeners_.push_back(listener);
}

void ConversionBroker::RemoveListener(ConversionListener* listener) {
  Turn turn = EnterInner(Everything());
  base::MutexLock lock(&mutex_);
  listeners_.erase(std::remove(listeners_.begin(), listeners_.end(), listener),
                   listeners_.end());
}

absl::Status ConversionBroker::GuestGaveUp(const GuestRange& range) {
  uint64_t merges = 0;
  RETURN_IF_ERROR(CoalesceRanges({&range, 1}, &merges).status());
  Turn turn = EnterInner(range);
  ASSIGN_OR_RETURN(RequestEffect effect,
                   CheckRequest(*states_, {&range, 1}, PageState::kPrivate));
  if (effect.aliased_bytes > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("some of ", range.ToString(), " is aliased"));
  }
  absl::Status status;
  states_->ForEachRange(range, [&](const StateRange& part) {
    // What was given up before keeps the state it had then.
    return given_up_.ForEachRange(part.range, [&](const StateRange& before) {
      if (before.state != PageState::kNotRam) return true;
      status = given_up_.Set(before.range, part.state);
      return status.ok();
    });
  });
  return status;
}

absl::Status ConversionBroker::GuestTookBack(const GuestRange& range) {
  uint64_t merges = 0;
  RETURN_IF_ERROR(CoalesceRanges({&range, 1}, &merges).status());
  Turn turn = EnterInner(range);
  RETURN_IF_ERROR(ConvertToMap(given_up_, range));
  return given_up_.Set(range, PageState::kNotRam);
}

absl::Status ConversionBroker::ConvertToMap(const PageStateMap& wanted,
                                            const GuestRange& range) {
  absl::Status status = fatal();
  if (!status.ok()) return status;
  wanted.ForEachRange(range, [&](const StateRange& part) {
    if (part.state != PageState::kPrivate && part.state != PageState::kShared) {
      return true;
    }
    status =
        Run({ConversionOrigin::kHost, part.state, {&part.range, 1}}, 0).status;
    return status.ok();
  });
  return status;
}

std::vector<StateRange> ConversionBroker::Ram() const {
  std::vector<StateRange> parts;
  initial_.ForEachRange(Everything(), [&](const StateRange& part) {
    if (part.state != PageState::kNotRam) parts.push_back(part);
    return true;
  });
  return parts;
}

absl::Status ConversionBroker::Reset() {
  queue_.CancelWaiting(absl::CancelledError("the guest was reset"));
  Turn turn = EnterInner(Everything());
  const std::vector<StateRange> ram = Ram();
  const auto deadline = steady_clock::now() + options_.busy_wait;
  absl::Status status;
  for (const StateRange& part : ram) {
    if (view_->leases().BlockAndWait(part.range, deadline)) continue;
    status = absl::UnavailableError(absl::StrCat(
        "reset: a device still uses some of ", part.range.ToString()));
  }
  if (status.ok()) status = ConvertToMap(initial_, Everything());
  for (const StateRange& part : ram) {
    if (status.ok()) status = ResetContent(part);
  }
  for (const StateRange& part : ram) view_->leases().Unblock(part.range);
  if (!status.ok()) return status;
  started_.store(false);
  implicit_armed_.store(false);
  return given_up_.Set(Everything(), PageState::kNotRam);
}

absl::Status ConversionBroker::ResetContent(const StateRange& part) {
  const std::vector<ConversionListener*> listeners = Listeners();
  const bool mapped = part.state == PageState::kShared;
  if (mapped) {
    for (ConversionListener* listener : listeners) {
      listener->UnmapShared(part.range);
    }
  }
  // Nobody has a lease: what was pending or left over goes with the rest.
  absl::Status status = backend_->FreeShared(part.range);
  if (status.ok() && part.state != PageState::kAliased) {
    status = backend_->FreePrivate(part.range);
  }
  if (status.ok()) {
    pending_->Remove(part.range);
    leftovers_.Remove(BackingSide::kShared, part.range);
    leftovers_.Remove(BackingSide::kPrivate, part.range);
  }
  if (mapped) {
    for (ConversionListener* listener : listeners) {
      listener->MapShared(part.range);
    }
  }
  return status;
}

absl::StatusOr<ReconcileReport> ConversionBroker::Reconcile() {
  ReconcileReport report;
  absl::Status first;
  if (backend_->content() == ConversionContent::kPreserved) return report;
  for (const StateRange& part : Ram()) {
    if (part.state == PageState::kAliased) continue;
    for (uint64_t offset = 0; offset < part.range.size();) {
      const GuestRange window = ChunkAt(part.range, offset, kReconcileWindow);
      Turn turn = EnterInner(window);
      absl::Status status = ReconcileWindow(window, &report);
      if (first.ok()) first = status;
      offset += window.size();
    }
  }
  stats_.Apply([&](ConversionStats& stats) {
    stats.reconciled_bytes += report.freed_bytes;
  });
  if (!first.ok()) return first;
  return report;
}

absl::Status ConversionBroker::ReconcileWindow(const GuestRange& window,
                                               ReconcileReport* report) {
  std::vector<StateRange> parts;
  states_->ForEachRange(window, [&](const StateRange& part) {
    parts.push_back(part);
    return true;
  });
  absl::Status first;
  for (const StateRange& part : parts) {
    const BackingSide wrong = part.state == PageState::kPrivate
                                  ? BackingSide::kShared
                                  : BackingSide::kPrivate;
    absl::Status status = ReconcileSide(wrong, part.range, report);
    if (first.ok()) first = status;
  }
  return first;
}

absl::Status ConversionBroker::ReconcileSide(BackingSide side,
                                             const GuestRange& range,
                                             ReconcileReport* report) {
  std::vector<GuestRange> found;
  RETURN_IF_ERROR(backend_->ForEachBacked(
      side, range, [&](const GuestRange& backed) { found.push_back(backed); }));
  // What is not backed any more is no leftover; what cannot be freed becomes
  // one again below.
  leftovers_.Remove(side, range);
  uint64_t& total = side == BackingSide::kShared ? report->shared_bytes
                                                 : report->private_bytes;
  uint64_t failed = 0;
  for (const GuestRange& backed : found) {
    total += backed.size();
    for (const GuestRange& leased : pending_->Inside(backed)) {
      report->leased_bytes += leased.size();
    }
    for (const GuestRange& part : pending_->Outside(backed)) {
      const uint64_t freed = executor_->FreeSide(side, part);
      report->freed_bytes += freed;
      failed += part.size() - freed;
    }
  }
  if (failed == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("reconcile: ", failed, " bytes in ",
                                          range.ToString(),
                                          " could not be freed"));
}

void ConversionBroker::Shutdown() {
  queue_.Shutdown(absl::CancelledError("the VM stops"));
}

ConversionStats ConversionBroker::stats() {
  ConversionStats stats = stats_.Snapshot();
  stats.pending_private_bytes = pending_->bytes();
  stats.leftover_bytes = leftovers_.bytes();
  stats.double_backed_bytes =
      stats.pending_private_bytes + stats.leftover_bytes;
  stats.private_bytes = states_->bytes(PageState::kPrivate);
  stats.shared_bytes = states_->bytes(PageState::kShared);
  stats.aliased_total_bytes = states_->bytes(PageState::kAliased);
  stats.queued = queue_.waiting();
  return stats;
}

absl::Status ConversionBroker::fatal() {
  base::MutexLock lock(&mutex_);
  return fatal_;
}

}  // namespace cloister::memory
