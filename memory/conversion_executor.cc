// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_executor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/memory/conversion_request.h"

namespace cloister::memory {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

// Between attempts at pages that the backend finds busy.
constexpr milliseconds kBusyPoll(1);
// At least, for busy pages of a chunk that has to become what it was.
constexpr std::chrono::seconds kUndoWait(1);

absl::Status Annotate(const absl::Status& status, absl::string_view what,
                      const GuestRange& range) {
  return absl::Status(status.code(), absl::StrCat(what, " ", range.ToString(),
                                                  ": ", status.message()));
}

// The part of `set` before or after its first `bytes` bytes.
ConversionSet Head(const ConversionSet& set, uint64_t bytes) {
  ConversionSet head{set.id, set.to, set.implicit, {}};
  for (const GuestRange& range : set.ranges) {
    if (bytes == 0) break;
    const uint64_t size = std::min(bytes, range.size());
    head.ranges.push_back(*GuestRange::Create(range.start(), size));
    bytes -= size;
  }
  return head;
}

ConversionSet Tail(const ConversionSet& set, uint64_t bytes) {
  ConversionSet tail{set.id, set.to, set.implicit, {}};
  for (const GuestRange& range : set.ranges) {
    const uint64_t skip = std::min(bytes, range.size());
    bytes -= skip;
    if (skip == range.size()) continue;
    tail.ranges.push_back(
        *GuestRange::Create(*range.start().Plus(skip), range.size() - skip));
  }
  return tail;
}

void MapAgain(const GuestRange& chunk,
              absl::Span<ConversionListener* const> listeners) {
  for (auto it = listeners.rbegin(); it != listeners.rend(); ++it) {
    (*it)->MapShared(chunk);
  }
}

}  // namespace

void LeftoverPages::Add(BackingSide side, const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  if (Of(side).range_count() < kMaxRanges) Of(side).Add(range);
}

void LeftoverPages::Remove(BackingSide side, const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  Of(side).Remove(range);
}

void LeftoverPages::Clear() {
  base::MutexLock lock(&mutex_);
  shared_.Clear();
  private_.Clear();
}

uint64_t LeftoverPages::bytes() {
  base::MutexLock lock(&mutex_);
  return shared_.bytes() + private_.bytes();
}

std::vector<GuestRange> LeftoverPages::All(BackingSide side) {
  base::MutexLock lock(&mutex_);
  return Of(side).All();
}

ConversionExecutor::Result ConversionExecutor::Apply(
    const ConversionSet& set, absl::Span<ConversionListener* const> listeners,
    const Limits& limits) {
  absl::Status prepared = Prepare(set, listeners);
  if (!prepared.ok()) return {std::move(prepared)};
  Result result = ApplyChunks(set, Job{set.to, listeners, limits});
  Finish(set, result.bytes_done, listeners);
  return result;
}

ConversionExecutor::Result ConversionExecutor::ApplyChunks(
    const ConversionSet& set, const Job& job) {
  Result total;
  const uint64_t chunk_size = parts_.backend->preferred_chunk();
  for (const GuestRange& range : set.ranges) {
    for (uint64_t offset = 0; offset < range.size();) {
      if (job.limits.stop != nullptr) total.status = job.limits.stop();
      if (!total.status.ok()) return total;
      const GuestRange chunk = ChunkAt(range, offset, chunk_size);
      Result result = ApplyChunk(chunk, job);
      if (!result.status.ok()) {
        result.bytes_done = total.bytes_done;
        return result;
      }
      offset += chunk.size();
      total.bytes_done += chunk.size();
    }
  }
  return total;
}

absl::Status ConversionExecutor::Prepare(
    const ConversionSet& set, absl::Span<ConversionListener* const> listeners) {
  for (size_t i = 0; i < listeners.size(); ++i) {
    absl::Status status = listeners[i]->Prepare(set);
    if (status.ok()) continue;
    for (size_t j = i; j > 0; --j) listeners[j - 1]->Rollback(set);
    parts_.stats->RecordRollback(listeners[i]->name());
    return absl::Status(status.code(), absl::StrCat("conversion refused by ",
                                                    listeners[i]->name(), ": ",
                                                    status.message()));
  }
  return absl::OkStatus();
}

void ConversionExecutor::Finish(
    const ConversionSet& set, uint64_t bytes_done,
    absl::Span<ConversionListener* const> listeners) {
  if (listeners.empty()) return;
  if (bytes_done > 0) {
    const ConversionSet done = Head(set, bytes_done);
    for (ConversionListener* listener : listeners) listener->Commit(done);
  }
  const ConversionSet rest = Tail(set, bytes_done);
  if (rest.ranges.empty()) return;
  for (auto it = listeners.rbegin(); it != listeners.rend(); ++it) {
    (*it)->Rollback(rest);
  }
}

ConversionExecutor::Result ConversionExecutor::ApplyChunk(
    const GuestRange& chunk, const Job& job) {
  Result result = job.to == PageState::kPrivate ? ToPrivate(chunk, job)
                                                : ToShared(chunk, job);
  if (!result.status.ok()) {
    parts_.stats->Apply([](ConversionStats& stats) { ++stats.undone_chunks; });
  }
  return result;
}

ConversionExecutor::Result ConversionExecutor::ToPrivate(
    const GuestRange& chunk, const Job& job) {
  // The order is the contract: block leases and wait, DMA unmap, attribute,
  // publish, free.
  bool idle = parts_.leases->BlockAndWait(chunk, job.limits.lease_deadline);
  if (!idle && !two_backings()) {
    // There is no second copy to leave to the lease.
    idle = parts_.leases->WaitIdle(chunk, job.limits.busy_deadline);
    if (!idle) {
      parts_.leases->Unblock(chunk);
      return {absl::UnavailableError(
          absl::StrCat("a device still uses ", chunk.ToString()))};
    }
  }
  for (ConversionListener* listener : job.listeners) {
    listener->UnmapShared(chunk);
  }
  Result result = SwitchState(chunk, job);
  // What is in between stays blocked: nobody may touch it any more.
  if (result.fatal) return result;
  if (!result.status.ok()) {
    MapAgain(chunk, job.listeners);
    parts_.leases->Unblock(chunk);
    return result;
  }
  parts_.leases->Unblock(chunk);
  if (two_backings()) {
    parts_.leftovers->Remove(BackingSide::kPrivate, chunk);
    FreeSharedCopy(chunk, idle);
  }
  return result;
}

ConversionExecutor::Result ConversionExecutor::ToShared(const GuestRange& chunk,
                                                        const Job& job) {
  // Reserve, attribute, publish, punch, map.
  Result result;
  if (two_backings()) {
    result.status = parts_.backend->ReserveShared(chunk);
    if (!result.status.ok()) {
      result.status = Annotate(result.status, "reserving", chunk);
    }
  }
  if (result.status.ok()) result = SwitchState(chunk, job);
  if (result.fatal) return result;
  if (!result.status.ok()) {
    // What was reserved; not what a lease from before still uses.
    if (two_backings()) {
      for (const GuestRange& range : parts_.pending->Outside(chunk)) {
        FreeSide(BackingSide::kShared, range);
      }
    }
    return result;
  }
  parts_.pending->Remove(chunk);
  parts_.leftovers->Remove(BackingSide::kShared, chunk);
  if (two_backings()) FreeSide(BackingSide::kPrivate, chunk);
  for (ConversionListener* listener : job.listeners) {
    listener->MapShared(chunk);
  }
  return result;
}

ConversionExecutor::Result ConversionExecutor::SwitchState(
    const GuestRange& chunk, const Job& job) {
  PageProgress progress =
      SetAttributes(chunk, job.to, job.limits.busy_deadline);
  if (!progress.status.ok()) {
    return Undo(
        chunk, progress.bytes_done, job,
        Annotate(progress.status,
                 absl::StrCat("making ", PageStateName(job.to)), chunk));
  }
  absl::Status status = parts_.publish(chunk, job.to);
  if (status.ok()) return {};
  return Undo(chunk, chunk.size(), job, Annotate(status, "publishing", chunk));
}

PageProgress ConversionExecutor::SetAttributes(const GuestRange& range,
                                               PageState to,
                                               Deadline busy_deadline) {
  uint64_t done = 0;
  for (;;) {
    const GuestRange rest =
        *GuestRange::Create(*range.start().Plus(done), range.size() - done);
    PageProgress progress = parts_.backend->SetAttributes(rest, to);
    if (progress.status.ok()) return {absl::OkStatus(), range.size()};
    // A partly changed page counts as changed.
    done +=
        std::min(rest.size(), base::AlignUp(progress.bytes_done, kPageSize));
    if (done == range.size() || !absl::IsUnavailable(progress.status) ||
        steady_clock::now() >= busy_deadline || !parts_.delay(kBusyPoll)) {
      return {std::move(progress.status), done};
    }
  }
}

ConversionExecutor::Result ConversionExecutor::Undo(const GuestRange& chunk,
                                                    uint64_t bytes,
                                                    const Job& job,
                                                    absl::Status cause) {
  if (bytes == 0) return {std::move(cause)};
  const PageState from =
      job.to == PageState::kShared ? PageState::kPrivate : PageState::kShared;
  const GuestRange changed = *GuestRange::Create(chunk.start(), bytes);
  // The request's own time may be up: that is often why this chunk failed.
  PageProgress progress = SetAttributes(
      changed, from,
      std::max(job.limits.busy_deadline, steady_clock::now() + kUndoWait));
  if (progress.status.ok()) return {std::move(cause)};
  Result result{absl::InternalError(
      absl::StrCat(cause.message(), "; undoing ", changed.ToString(),
                   " failed too: ", progress.status.message()))};
  result.fatal = true;
  return result;
}

void ConversionExecutor::FreeSharedCopy(const GuestRange& chunk, bool idle) {
  if (idle) {
    FreeSide(BackingSide::kShared, chunk);
    return;
  }
  parts_.leases->ForEachRun(chunk, [&](const GuestRange& run, bool leased) {
    if (!leased) {
      FreeSide(BackingSide::kShared, run);
      return;
    }
    parts_.pending->Add(run);
    parts_.stats->Apply(
        [](ConversionStats& stats) { ++stats.pending_private; });
  });
}

void ConversionExecutor::FreePending(const GuestRange& range) {
  for (const GuestRange& part : parts_.pending->Inside(range)) {
    parts_.leases->ForEachRun(part, [&](const GuestRange& run, bool leased) {
      if (leased) return;
      FreeSide(BackingSide::kShared, run);
      parts_.pending->Remove(run);
    });
  }
}

uint64_t ConversionExecutor::FreeSide(BackingSide side,
                                      const GuestRange& range) {
  absl::Status status = side == BackingSide::kShared
                            ? parts_.backend->FreeShared(range)
                            : parts_.backend->FreePrivate(range);
  if (!status.ok()) {
    parts_.leftovers->Add(side, range);
    return 0;
  }
  parts_.leftovers->Remove(side, range);
  return range.size();
}

}  // namespace cloister::memory
