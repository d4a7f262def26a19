// SPDX-License-Identifier: Apache-2.0
//
// What of the guest's memory is backed on the wrong side, and giving it back.
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/range_set.h"

namespace cloister::memory {
namespace {

using std::chrono::steady_clock;

// What one step of a reconciliation looks at, and keeps from conversions: far
// less work than a chunk of one.
constexpr uint64_t kReconcileWindow = uint64_t{4} << 20;

// The first step at or after `address` of a look at `ram`.
std::optional<GuestRange> WindowFrom(const std::vector<StateRange>& ram,
                                     uint64_t address) {
  for (const StateRange& part : ram) {
    const uint64_t start = part.range.start().value();
    if (part.state == PageState::kAliased ||
        part.range.last().value() < address) {
      continue;
    }
    return ChunkAt(part.range, address > start ? address - start : 0,
                   kReconcileWindow);
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<ReconcileReport> ConversionBroker::Reconcile(GuestPages pages) {
  return Survey(/*may_free=*/true, pages);
}

absl::StatusOr<ReconcileReport> ConversionBroker::CountDoubleBacked() {
  return Survey(/*may_free=*/false, GuestPages::kMayBeUnreported);
}

absl::StatusOr<bool> ConversionBroker::MayFree(GuestPages pages) {
  switch (phase()) {
    case ConversionPhase::kBuilding:
    case ConversionPhase::kStopped:
      return true;
    case ConversionPhase::kLaunching:
      return absl::FailedPreconditionError(
          "reconcile: the launch is not verified yet");
    case ConversionPhase::kRunning:
      break;
  }
  if (pages == GuestPages::kMayBeUnreported) return false;
  if (queue_.paused()) return true;
  return absl::FailedPreconditionError("reconcile: the guest is not paused");
}

absl::StatusOr<ReconcileReport> ConversionBroker::Survey(bool may_free,
                                                         GuestPages pages) {
  RETURN_IF_ERROR(fatal());
  ReconcileReport report;
  absl::Status first;
  if (backend_->content() == ConversionContent::kPreserved) return report;
  const std::vector<StateRange> ram = Ram();
  for (auto window = WindowFrom(ram, 0); window.has_value();
       window = WindowFrom(ram, window->last().value() + 1)) {
    Turn turn = EnterInner(*window);
    // Asked anew: the phase may have changed between two turns.
    bool free = false;
    if (may_free) {
      ASSIGN_OR_RETURN(free, MayFree(pages));
    }
    report.counted_only |= !free;
    absl::Status status = ReconcileWindow(*window, free, &report);
    if (first.ok()) first = status;
  }
  if (!first.ok()) return first;
  return report;
}

absl::Status ConversionBroker::SurveyFor(std::chrono::nanoseconds budget) {
  const auto deadline = steady_clock::now() + budget;
  RETURN_IF_ERROR(fatal());
  if (backend_->content() == ConversionContent::kPreserved) {
    return absl::OkStatus();
  }
  const uint64_t begin = double_backed_.position();
  uint64_t at = begin;
  const std::vector<StateRange> ram = Ram();
  absl::Status first;
  bool wrapped = false;
  do {
    std::optional<GuestRange> window = WindowFrom(ram, at);
    if (!window.has_value() && !wrapped) {
      wrapped = true;
      window = WindowFrom(ram, 0);
    }
    if (!window.has_value()) break;
    if (wrapped && window->start().value() >= begin) break;
    at = window->last().value() + 1;
    std::optional<Turn> turn = queue_.TryEnterInner(*window);
    if (!turn.has_value()) continue;
    ReconcileReport report;
    absl::Status status = ReconcileWindow(*window, /*free=*/false, &report);
    if (first.ok()) first = status;
  } while (steady_clock::now() < deadline);
  double_backed_.set_position(at);
  return first;
}

absl::Status ConversionBroker::ReconcileWindow(const GuestRange& window,
                                               bool free,
                                               ReconcileReport* report) {
  std::vector<StateRange> parts;
  states_->ForEachRange(window, [&](const StateRange& part) {
    parts.push_back(part);
    return true;
  });
  absl::Status first;
  const uint64_t before = report->double_backed_bytes() - report->freed_bytes;
  for (const StateRange& part : parts) {
    const BackingSide wrong = part.state == PageState::kPrivate
                                  ? BackingSide::kShared
                                  : BackingSide::kPrivate;
    absl::Status status = ReconcileSide(wrong, part.range, free, report);
    if (first.ok()) first = status;
  }
  // A look that failed knows nothing new; giving back may fail after it.
  if (first.ok() || free) {
    double_backed_.Note(
        window, report->double_backed_bytes() - report->freed_bytes - before);
  }
  return first;
}

absl::Status ConversionBroker::ReconcileSide(BackingSide side,
                                             const GuestRange& range, bool free,
                                             ReconcileReport* report) {
  RangeSet found;
  RETURN_IF_ERROR(backend_->ForEachBacked(
      side, range, [&](const GuestRange& backed) { found.Add(backed); }));
  // What is not backed any more is no leftover.
  for (const GuestRange& gone : found.Outside(range)) {
    leftovers_.Remove(side, gone);
  }
  (side == BackingSide::kShared ? report->shared_bytes
                                : report->private_bytes) += found.bytes();
  uint64_t failed = 0;
  uint64_t freed = 0;
  for (const GuestRange& backed : found.All()) {
    for (const GuestRange& leased : pending_->Inside(backed)) {
      report->leased_bytes += leased.size();
    }
    if (!free) continue;
    for (const GuestRange& part : pending_->Outside(backed)) {
      const uint64_t bytes = executor_->FreeSide(side, part);
      freed += bytes;
      failed += part.size() - bytes;
    }
  }
  report->freed_bytes += freed;
  stats_.Apply(
      [freed](ConversionStats& stats) { stats.reconciled_bytes += freed; });
  if (failed == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("reconcile: ", failed, " bytes in ",
                                          range.ToString(),
                                          " could not be freed"));
}

}  // namespace cloister::memory
