// SPDX-License-Identifier: Apache-2.0
//
// What the broker does for the VM as a whole: declaring RAM, listeners, the
// balloon, reset, statistics.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/memory/conversion_broker.h"

namespace cloister::memory {
namespace {

using std::chrono::steady_clock;

GuestRange Everything() {
  return *GuestRange::Create(GuestAddress(0), PageStateMap::kEndAddress);
}

}  // namespace

absl::Status ConversionBroker::AddRam(const GuestRange& range,
                                      PageState state) {
  for (const GuestRange& window : options_.exchange_windows) {
    if (!window.Overlaps(range)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("exchange window ", window.ToString(),
                     " lies in the guest's RAM ", range.ToString()));
  }
  return Declare(range, state);
}

absl::Status ConversionBroker::AddExchangeWindow(const GuestRange& range,
                                                 PageState state) {
  const bool inside = std::any_of(
      options_.exchange_windows.begin(), options_.exchange_windows.end(),
      [&](const GuestRange& window) { return window.Contains(range); });
  if (!inside || state == PageState::kAliased) {
    return absl::InvalidArgumentError(absl::StrCat("no exchange window has ",
                                                   range.ToString(), " ",
                                                   PageStateName(state)));
  }
  return Declare(range, state);
}

absl::Status ConversionBroker::Declare(const GuestRange& range,
                                       PageState state) {
  if (!range.IsPageAligned() || state == PageState::kNotRam ||
      range.last().value() >= PageStateMap::kEndAddress ||
      !view_->memory_->Contains(range)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot declare ", range.ToString(), " ", PageStateName(state)));
  }
  Turn turn = EnterInner(range);
  if (phase() != ConversionPhase::kBuilding) {
    return absl::FailedPreconditionError(absl::StrCat(
        "declaring memory of a VM that is ", ConversionPhaseName(phase())));
  }
  if (!states_->IsWholly(range, PageState::kNotRam)) {
    return absl::AlreadyExistsError(
        absl::StrCat("some of ", range.ToString(), " is RAM already"));
  }
  if (state != PageState::kAliased) {
    RETURN_IF_ERROR(backend_->SetAttributes(range, state).status);
  }
  RETURN_IF_ERROR(initial_.Set(range, state));
  double_backed_.Clear();  // steps may begin elsewhere now
  if (state == PageState::kShared) budget_.Take(range.size());
  return states_->Set(range, state);
}

absl::Status ConversionBroker::BeginLaunch() {
  Turn turn = EnterInner(Everything());
  if (phase() != ConversionPhase::kBuilding) {
    return absl::FailedPreconditionError(
        absl::StrCat("launching a VM that is ", ConversionPhaseName(phase())));
  }
  phase_.store(ConversionPhase::kLaunching);
  return absl::OkStatus();
}

absl::Status ConversionBroker::FinishLaunch(
    absl::Span<const GuestRange> staged) {
  uint64_t merges = 0;
  std::vector<GuestRange> merged;
  if (!staged.empty()) {
    ASSIGN_OR_RETURN(merged, CoalesceRanges(staged, &merges));
  }
  Turn turn = EnterInner(Everything());
  RETURN_IF_ERROR(fatal());
  if (phase() != ConversionPhase::kLaunching) {
    return absl::FailedPreconditionError(absl::StrCat(
        "launch verified in a VM that is ", ConversionPhaseName(phase())));
  }
  if (!merged.empty()) {
    RETURN_IF_ERROR(
        Convert({ConversionOrigin::kHost, PageState::kPrivate, merged}).status);
  }
  phase_.store(ConversionPhase::kRunning);
  return absl::OkStatus();
}

bool ConversionBroker::DenialAwaitsSetPoint() const {
  return implicit_.load() == ImplicitPolicy::kDeny && !implicit_armed_.load();
}

void ConversionBroker::GuestStarted() {
  Turn turn = EnterInner(Everything());
  if (phase() == ConversionPhase::kStopped) return;
  phase_.store(ConversionPhase::kRunning);
}

void ConversionBroker::GuestStopped() {
  Turn turn = EnterInner(Everything());
  phase_.store(ConversionPhase::kStopped);
}

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

absl::Status ConversionBroker::CheckGuestRuns() const {
  if (phase() == ConversionPhase::kRunning) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("a balloon in a VM that is ", ConversionPhaseName(phase())));
}

absl::Status ConversionBroker::GuestGaveUp(const GuestRange& range) {
  uint64_t merges = 0;
  RETURN_IF_ERROR(CoalesceRanges({&range, 1}, &merges).status());
  Turn turn = EnterInner(range);
  RETURN_IF_ERROR(CheckGuestRuns());
  ASSIGN_OR_RETURN(RequestEffect effect,
                   CheckRequest(*states_, {&range, 1}, PageState::kPrivate));
  if (effect.aliased_bytes > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("some of ", range.ToString(), " is aliased"));
  }
  StateWalker walker(states_, range);
  for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
    for (const StateRange& part : batch) RETURN_IF_ERROR(NoteGivenUp(part));
  }
  return absl::OkStatus();
}

absl::Status ConversionBroker::NoteGivenUp(const StateRange& part) {
  StateWalker walker(&given_up_, part.range);
  for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
    for (const StateRange& before : batch) {
      // What was given up before keeps the state it had then.
      if (before.state != PageState::kNotRam) continue;
      RETURN_IF_ERROR(given_up_.Set(before.range, part.state));
    }
  }
  return absl::OkStatus();
}

absl::Status ConversionBroker::GuestTookBack(const GuestRange& range) {
  uint64_t merges = 0;
  RETURN_IF_ERROR(CoalesceRanges({&range, 1}, &merges).status());
  Turn turn = EnterInner(range);
  RETURN_IF_ERROR(CheckGuestRuns());
  RETURN_IF_ERROR(ConvertToMap(given_up_, range, /*may_stop=*/true));
  return given_up_.Set(range, PageState::kNotRam);
}

absl::Status ConversionBroker::GuestTookBackAll() {
  absl::Status first;
  StateWalker walker(&given_up_, Everything());
  for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
    for (const StateRange& part : batch) {
      if (part.state == PageState::kNotRam) continue;
      const absl::Status status = GuestTookBack(part.range);
      if (first.ok()) first = status;
    }
  }
  return first;
}

absl::Status ConversionBroker::FreeGivenUp(const GuestRange& range) {
  uint64_t merges = 0;
  RETURN_IF_ERROR(CoalesceRanges({&range, 1}, &merges).status());
  Turn turn = EnterInner(range);
  RETURN_IF_ERROR(fatal());
  RETURN_IF_ERROR(CheckGuestRuns());
  const bool given_up = given_up_.ForEachRange(
      range,
      [](const StateRange& part) { return part.state != PageState::kNotRam; });
  if (!given_up) {
    return absl::FailedPreconditionError(
        absl::StrCat("guest owns this page: some of ", range.ToString(),
                     " is not given up"));
  }
  StateWalker walker(states_, range);
  for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
    for (const StateRange& part : batch) RETURN_IF_ERROR(FreePart(part));
  }
  return absl::OkStatus();
}

absl::Status ConversionBroker::FreePart(const StateRange& part) {
  if (part.state == PageState::kPrivate) {
    return backend_->FreePrivate(part.range);
  }
  // No wait: a page that is given up and in a device's hands is the guest's
  // mistake, and may belong to the very request that the caller works on.
  absl::Status status = absl::UnavailableError(
      absl::StrCat("a device uses some of ", part.range.ToString()));
  if (view_->leases().BlockAndWait(part.range, steady_clock::now())) {
    const std::vector<ConversionListener*> listeners = Listeners();
    for (ConversionListener* listener : listeners) {
      listener->UnmapShared(part.range);
    }
    status = backend_->FreeShared(part.range);
    for (ConversionListener* listener : listeners) {
      listener->MapShared(part.range);
    }
  }
  view_->leases().Unblock(part.range);
  return status;
}

absl::Status ConversionBroker::ConvertToMap(const PageStateMap& wanted,
                                            const GuestRange& range,
                                            bool may_stop) {
  RETURN_IF_ERROR(fatal());
  // What listeners give up first they may need for what is shared then.
  for (PageState to : {PageState::kPrivate, PageState::kShared}) {
    StateWalker walker(&wanted, range);
    for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
      for (const StateRange& part : batch) {
        if (part.state != to) continue;
        const Request request{
            ConversionOrigin::kHost, to, {&part.range, 1}, may_stop};
        RETURN_IF_ERROR(Run(request, 0).status);
      }
    }
  }
  return absl::OkStatus();
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
  queue_.CancelWaiting(absl::AbortedError("the guest was reset"));
  Turn turn = EnterInner(Everything());
  life_.fetch_add(1);
  RETURN_IF_ERROR(fatal());
  const std::vector<StateRange> ram = Ram();
  absl::Status status = ResetTo(ram);
  // A page that is in between now stays blocked.
  RETURN_IF_ERROR(fatal());
  for (const StateRange& part : ram) view_->leases().Unblock(part.range);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(given_up_.Set(Everything(), PageState::kNotRam));
  implicit_armed_.store(false);
  phase_.store(ConversionPhase::kBuilding);
  return absl::OkStatus();
}

absl::Status ConversionBroker::ResetTo(const std::vector<StateRange>& ram) {
  const auto deadline = steady_clock::now() + options_.busy_wait;
  absl::Status status;
  for (const StateRange& part : ram) {
    if (view_->leases().BlockAndWait(part.range, deadline)) continue;
    status = absl::UnavailableError(absl::StrCat(
        "reset: a device still uses some of ", part.range.ToString()));
  }
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(ConvertToMap(initial_, Everything(), /*may_stop=*/false));
  for (const StateRange& part : ram) RETURN_IF_ERROR(ResetContent(part));
  double_backed_.Clear();
  return absl::OkStatus();
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

void ConversionBroker::Shutdown() {
  absl::Status why = fatal();
  if (why.ok()) why = absl::CancelledError("the VM stops");
  queue_.Shutdown(why);
}

ConversionStats ConversionBroker::stats() {
  ConversionStats stats = stats_.Snapshot();
  stats.pending_private_bytes = pending_->bytes();
  stats.leftover_bytes = leftovers_.bytes();
  stats.double_backed_bytes =
      std::max(double_backed_.bytes(),
               stats.pending_private_bytes + stats.leftover_bytes);
  stats.private_bytes = states_->bytes(PageState::kPrivate);
  stats.shared_bytes = states_->bytes(PageState::kShared);
  stats.aliased_total_bytes = states_->bytes(PageState::kAliased);
  stats.queued = queue_.waiting();
  return stats;
}

absl::Status ConversionBroker::fatal() {
  base::MutexLock lock(&mutex_);
  return CopyForThread(fatal_);
}

}  // namespace cloister::memory
