// SPDX-License-Identifier: Apache-2.0
//
// Requests: who may have what converted. conversion_broker_upkeep.cc has what
// the broker does for the VM as a whole.
#include "cloister/memory/conversion_broker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::memory {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using Priority = ConversionQueue::Priority;

// Far from the end of the clock, whatever is configured.
constexpr std::chrono::hours kLongestWait(24);

GuestConversionCode CodeOf(const absl::Status& status, bool refused) {
  if (status.ok()) return GuestConversionCode::kOk;
  if (!refused) return GuestConversionCode::kFailed;
  return absl::IsPermissionDenied(status) ? GuestConversionCode::kNotPermitted
                                          : GuestConversionCode::kInvalid;
}

// Nothing else here is Aborted.
bool WasReset(const absl::Status& status) { return absl::IsAborted(status); }

}  // namespace

absl::StatusOr<std::unique_ptr<ConversionBroker>> ConversionBroker::Create(
    PageStateMap* states, PageBackend* backend, SharedView* view,
    ConversionBrokerOptions options) {
  const uint64_t chunk = backend->preferred_chunk();
  if (chunk < kPageSize || (chunk & (chunk - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("backend ", backend->name(), " prefers chunks of ", chunk,
                     " bytes, which is no power of two of pages"));
  }
  for (nanoseconds wait : {options.lease_wait, options.busy_wait}) {
    if (wait < nanoseconds(0) || wait > kLongestWait) {
      return absl::InvalidArgumentError(
          absl::StrCat("waiting ", wait.count(), " ns for leases"));
    }
  }
  if (!options.exchange_windows.empty()) {
    uint64_t merges = 0;
    ASSIGN_OR_RETURN(options.exchange_windows,
                     CoalesceRanges(options.exchange_windows, &merges));
  }
  return std::unique_ptr<ConversionBroker>(
      new ConversionBroker(states, backend, view, std::move(options)));
}

ConversionBroker::ConversionBroker(PageStateMap* states, PageBackend* backend,
                                   SharedView* view,
                                   ConversionBrokerOptions options)
    : states_(states),
      backend_(backend),
      view_(view),
      options_(std::move(options)),
      rate_(options_.policy),
      budget_(options_.policy.shared_limit),
      implicit_(options_.policy.implicit),
      queue_(options_.on_held) {
  pending_ = std::make_unique<PendingPrivate>(
      view_,
      [this](const GuestRange& range) {
        Turn turn = EnterInner(range);
        executor_->FreePending(range);
      },
      options_.on_thread_start);
  executor_ = std::make_unique<ConversionExecutor>(ConversionExecutor::Parts{
      backend_, &view_->leases(), pending_.get(), &leftovers_, &stats_,
      [this](const GuestRange& range, PageState state) {
        return states_->Set(range, state);
      },
      [this](nanoseconds duration) { return queue_.Delay(duration); }});
}

void ConversionBroker::SetPolicy(const ConversionPolicy& policy) {
  implicit_.store(policy.implicit);
  budget_.SetLimit(policy.shared_limit);
  rate_.SetPolicy(policy, std::chrono::steady_clock::now());
}

ConversionBroker::~ConversionBroker() {
  Shutdown();
  pending_.reset();
}

GuestConversion ConversionBroker::ConvertForGuest(uint64_t gpa, uint64_t npages,
                                                  uint64_t attributes) {
  const uint64_t life = life_.load();
  absl::StatusOr<MapGpaRange> decoded =
      DecodeMapGpaRange(gpa, npages, attributes);
  // Whoever counts as held may not go on during a pause: what is going to be
  // refused takes a turn as well, on no pages.
  absl::Span<const GuestRange> ranges;
  if (decoded.ok()) ranges = {&decoded->range, 1};
  DelayForRate();
  const steady_clock::time_point arrival = steady_clock::now();
  absl::StatusOr<Turn> turn = EnterRequest(ranges, Priority::kGuest, life);
  if (!turn.ok()) return {GuestConversionCode::kFailed, 0, turn.status()};
  if (!decoded.ok()) {
    return {GuestConversionCode::kInvalid, 0, Refuse(decoded.status())};
  }
  Outcome outcome =
      ConvertGuests({ConversionOrigin::kExplicit, decoded->to, ranges});
  stats_.RecordLatency(steady_clock::now() - arrival);
  return {CodeOf(outcome.status, outcome.refused), outcome.bytes,
          std::move(outcome.status)};
}

FaultConversion ConversionBroker::ConvertForFault(GuestAddress page,
                                                  PageState wanted,
                                                  uint64_t generation) {
  const uint64_t life = life_.load();
  absl::StatusOr<GuestRange> range =
      GuestRange::CreatePageAligned(page, kPageSize);
  if (!range.ok() || !IsConvertible(wanted)) {
    return {FaultAction::kFail, Refuse(absl::InvalidArgumentError(absl::StrCat(
                                    "memory fault at ", page.ToString(),
                                    " wants ", PageStateName(wanted))))};
  }
  // Another vCPU's conversion makes faults like these; they cost no token.
  if (FaultIsVoid(page, wanted, generation)) {
    return {FaultAction::kResume, absl::OkStatus()};
  }
  DelayForRate();
  const steady_clock::time_point arrival = steady_clock::now();
  absl::StatusOr<Turn> turn =
      EnterRequest({&*range, 1}, Priority::kGuest, life);
  if (!turn.ok() && WasReset(turn.status())) {
    return {FaultAction::kResume, absl::OkStatus()};
  }
  if (!turn.ok()) return {FaultAction::kFail, turn.status()};
  FaultConversion result = DecideFault(page, wanted, generation);
  stats_.RecordLatency(steady_clock::now() - arrival);
  return result;
}

bool ConversionBroker::FaultIsVoid(GuestAddress page, PageState wanted,
                                   uint64_t generation) {
  if (states_->ChangedSince(page, generation)) {
    // The fault tells what the guest wanted before; acting on it now could
    // destroy what it has put there since.
    stats_.Apply([](ConversionStats& stats) { ++stats.stale_faults; });
    return true;
  }
  if (states_->Get(page) != wanted) return false;
  stats_.Apply([](ConversionStats& stats) { ++stats.needless_faults; });
  return true;
}

FaultConversion ConversionBroker::DecideFault(GuestAddress page,
                                              PageState wanted,
                                              uint64_t generation) {
  const PageState state = states_->Get(page);
  auto why = [&](absl::string_view reason) {
    return absl::StrCat("page ", page.ToString(), " is ", PageStateName(state),
                        " and the guest wants it ", PageStateName(wanted), ": ",
                        reason);
  };
  if (!IsConvertible(state)) {
    return {FaultAction::kDeny,
            Refuse(absl::InvalidArgumentError(why("not convertible")))};
  }
  if (FaultIsVoid(page, wanted, generation)) {
    return {FaultAction::kResume, absl::OkStatus()};
  }
  if (implicit_armed_.load()) {
    if (implicit_.load() == ImplicitPolicy::kDeny) {
      stats_.Apply([](ConversionStats& stats) { ++stats.implicit_denied; });
      return {FaultAction::kDeny,
              absl::PermissionDeniedError(
                  why("implicit conversions are denied by policy"))};
    }
    if (implicit_.load() == ImplicitPolicy::kCount) {
      stats_.Apply(
          [](ConversionStats& stats) { ++stats.implicit_after_set_point; });
    }
  }
  const GuestRange range = *GuestRange::Create(page, kPageSize);
  Outcome outcome =
      ConvertGuests({ConversionOrigin::kImplicit, wanted, {&range, 1}});
  if (outcome.status.ok()) return {FaultAction::kResume, absl::OkStatus()};
  return {outcome.refused ? FaultAction::kDeny : FaultAction::kFail,
          std::move(outcome.status)};
}

absl::StatusOr<uint64_t> ConversionBroker::ConvertForHost(
    absl::Span<const GuestRange> ranges, PageState to,
    HostConversionReason reason) {
  const uint64_t life = life_.load();
  uint64_t merges = 0;
  if (!IsConvertible(to)) {
    return Refuse(absl::InvalidArgumentError(
        absl::StrCat("converting to ", PageStateName(to))));
  }
  absl::StatusOr<std::vector<GuestRange>> merged =
      CoalesceRanges(ranges, &merges);
  if (!merged.ok()) return Refuse(merged.status());
  ASSIGN_OR_RETURN(Turn turn, EnterRequest(*merged, Priority::kHost, life));
  const Request request{ConversionOrigin::kHost, to, *merged};
  absl::StatusOr<RequestEffect> effect = CheckHostMay(request, reason);
  if (!effect.ok()) return Refuse(effect.status());
  if (merges > 0) {
    stats_.Apply([&](ConversionStats& stats) { stats.merges += merges; });
  }
  Outcome outcome = Convert(request, *std::move(effect));
  if (outcome.status.ok()) return outcome.bytes;
  return absl::Status(outcome.status.code(),
                      absl::StrCat(outcome.status.message(), " (after ",
                                   outcome.bytes, " bytes)"));
}

absl::StatusOr<RequestEffect> ConversionBroker::CheckHostMay(
    const Request& request, HostConversionReason reason) {
  ASSIGN_OR_RETURN(RequestEffect effect,
                   CheckRequest(*states_, request.ranges, request.to));
  if (effect.aliased_bytes > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(effect.aliased_bytes, " bytes of it are aliased"));
  }
  if (phase_.load() == ConversionPhase::kLaunching) {
    return absl::FailedPreconditionError(
        "guest owns this page: the launch is not verified yet");
  }
  for (const GuestRange& range : request.ranges) {
    if (!HostOwns(range, reason)) {
      return absl::FailedPreconditionError(
          absl::StrCat("guest owns this page: ", range.ToString()));
    }
  }
  return effect;
}

bool ConversionBroker::HostOwns(const GuestRange& range,
                                HostConversionReason reason) {
  switch (reason) {
    case HostConversionReason::kBeforeBoot:
      return phase_.load() == ConversionPhase::kBuilding;
    case HostConversionReason::kGivenUp:
      return given_up_.ForEachRange(range, [](const StateRange& part) {
        return part.state != PageState::kNotRam;
      });
    case HostConversionReason::kExchangeWindow:
      return std::any_of(
          options_.exchange_windows.begin(), options_.exchange_windows.end(),
          [&](const GuestRange& window) { return window.Contains(range); });
  }
  return false;
}

absl::Status ConversionBroker::Admit(const Request& request,
                                     const RequestEffect& effect) {
  if (request.to != PageState::kShared) return absl::OkStatus();
  if (request.origin == ConversionOrigin::kHost &&
      phase_.load() == ConversionPhase::kBuilding) {
    budget_.Take(effect.changed_bytes);  // staged by the builder
  } else if (!budget_.TryTake(effect.changed_bytes)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "sharing ", effect.changed_bytes, " bytes more than the ",
        budget_.used(), " shared now passes the limit of ", budget_.limit()));
  }
  return absl::OkStatus();
}

ConversionBroker::Outcome ConversionBroker::ConvertGuests(
    const Request& request) {
  Outcome outcome = Convert(request);
  if (outcome.refused) return outcome;
  for (const GuestRange& range : request.ranges) {
    if (given_up_.IsWholly(range, PageState::kNotRam)) continue;
    // A request that failed in the middle leaves the rest given up.
    StateWalker walker(states_, range);
    for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
      for (const StateRange& part : batch) {
        if (part.state != request.to) continue;
        const absl::Status forgotten =
            given_up_.Set(part.range, PageState::kNotRam);
        if (outcome.status.ok()) outcome.status = forgotten;
      }
    }
  }
  return outcome;
}

ConversionBroker::Outcome ConversionBroker::Convert(const Request& request) {
  return Convert(request, CheckRequest(*states_, request.ranges, request.to));
}

ConversionBroker::Outcome ConversionBroker::Convert(
    const Request& request, absl::StatusOr<RequestEffect> effect) {
  absl::Status admitted =
      effect.ok() ? Admit(request, *effect) : effect.status();
  if (!admitted.ok()) return {Refuse(std::move(admitted)), 0, /*refused=*/true};
  if (effect->changed_bytes == 0 || effect->same_bytes > 0 ||
      effect->aliased_bytes > 0) {
    stats_.Apply([&](ConversionStats& stats) {
      stats.no_ops += effect->changed_bytes == 0 ? 1 : 0;
      stats.no_op_bytes += effect->same_bytes;
      stats.aliased_bytes += effect->aliased_bytes;
    });
  }
  if (effect->changed_bytes == 0) return {};
  Outcome outcome = Run(
      request, request.to == PageState::kShared ? effect->changed_bytes : 0);
  if (!outcome.status.ok()) {
    stats_.Apply([](ConversionStats& stats) { ++stats.failed; });
  }
  return outcome;
}

ConversionBroker::Outcome ConversionBroker::Run(const Request& request,
                                                uint64_t taken) {
  Outcome outcome = RunBatches(request);
  if (request.to == PageState::kPrivate) {
    budget_.Return(outcome.bytes);
  } else if (taken > outcome.bytes) {
    budget_.Return(taken - outcome.bytes);
  } else {
    budget_.Take(outcome.bytes - taken);
  }
  stats_.RecordConverted(request.origin, request.to, outcome.bytes);
  return outcome;
}

ConversionBroker::Outcome ConversionBroker::RunBatches(const Request& request) {
  const steady_clock::time_point now = steady_clock::now();
  ConversionExecutor::Limits limits{now + options_.lease_wait,
                                    now + options_.busy_wait, nullptr};
  if (request.may_stop) limits.stop = [this] { return queue_.stopped(); };
  const std::vector<ConversionListener*> listeners = Listeners();
  ConversionWalker walker(states_, request.ranges, request.to);
  Outcome outcome;
  for (;;) {
    ConversionSet set{next_set_id_.fetch_add(1), request.to,
                      request.origin == ConversionOrigin::kImplicit,
                      walker.Next()};
    if (set.ranges.empty()) return outcome;
    ConversionExecutor::Result result =
        executor_->Apply(set, listeners, limits);
    outcome.bytes += result.bytes_done;
    if (result.status.ok()) continue;
    if (result.fatal) SetFatal(result.status);
    outcome.status = std::move(result.status);
    return outcome;
  }
}

absl::StatusOr<ConversionBroker::Turn> ConversionBroker::EnterRequest(
    absl::Span<const GuestRange> ranges, Priority priority, uint64_t life) {
  absl::StatusOr<Turn> turn = queue_.Enter(ranges, priority);
  // What the rate limit held up across a reset was meant for pages that are no
  // more.
  if (turn.ok() && life_.load() != life)
    return absl::AbortedError("the guest was reset");
  return turn;
}

ConversionBroker::Turn ConversionBroker::EnterInner(const GuestRange& range) {
  return *queue_.Enter({&range, 1}, Priority::kInner);
}

void ConversionBroker::DelayForRate() {
  const nanoseconds delay = rate_.Take(
      options_.now != nullptr ? options_.now() : steady_clock::now());
  if (delay == nanoseconds(0)) return;
  stats_.Apply([](ConversionStats& stats) { ++stats.delayed; });
  if (options_.delay != nullptr) {
    options_.delay(delay);
  } else {
    queue_.DelayGuest(delay);
  }
}

std::vector<ConversionListener*> ConversionBroker::Listeners() {
  base::MutexLock lock(&mutex_);
  return listeners_;
}

absl::Status ConversionBroker::Refuse(absl::Status status) {
  stats_.Apply([](ConversionStats& stats) { ++stats.refused; });
  return status;
}

void ConversionBroker::SetFatal(const absl::Status& status) {
  {
    base::MutexLock lock(&mutex_);
    if (!fatal_.ok()) return;
    fatal_ = CopyForThread(status);
  }
  // Those whose wait ends now must find that the reason is known.
  if (options_.on_fatal != nullptr) options_.on_fatal(status);
  queue_.Shutdown(status);
}

}  // namespace cloister::memory
