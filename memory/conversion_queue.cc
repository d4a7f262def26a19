// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_queue.h"

#include <algorithm>
#include <utility>

namespace cloister::memory {
namespace {

// Whether two ascending lists of ranges have a page in common.
bool AnyOverlap(absl::Span<const GuestRange> a,
                absl::Span<const GuestRange> b) {
  size_t i = 0;
  size_t j = 0;
  while (i < a.size() && j < b.size()) {
    if (a[i].Overlaps(b[j])) return true;
    if (a[i].last() < b[j].start()) {
      ++i;
    } else {
      ++j;
    }
  }
  return false;
}

}  // namespace

absl::Status CopyForThread(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

ConversionQueue::Turn::~Turn() {
  if (queue_ != nullptr) queue_->Leave(entry_);
}

absl::StatusOr<ConversionQueue::Turn> ConversionQueue::Enter(
    absl::Span<const GuestRange> ranges, Priority priority) {
  base::MutexLock lock(&mutex_);
  if (!shutdown_.ok() && priority != Priority::kInner) {
    return CopyForThread(shutdown_);
  }
  if (priority == Priority::kHost && pauses_ > 0) {
    return absl::UnavailableError("conversions are paused");
  }
  EntryList::iterator entry = entries_.insert(
      entries_.end(),
      Turn::Entry{{ranges.begin(), ranges.end()}, priority, false, {}});
  if (priority == Priority::kGuest) TellHeld();
  while (entry->cancelled.ok() && !MayStart(entry)) changed_.Wait(&mutex_);
  if (!entry->cancelled.ok()) {
    absl::Status status = std::move(entry->cancelled);
    entries_.erase(entry);
    changed_.SignalAll();
    return status;
  }
  entry->started = true;
  return Turn(this, entry);
}

std::optional<ConversionQueue::Turn> ConversionQueue::TryEnterInner(
    const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  EntryList::iterator entry = entries_.insert(
      entries_.end(), Turn::Entry{{range}, Priority::kInner, false, {}});
  if (!MayStart(entry)) {
    entries_.erase(entry);
    return std::nullopt;
  }
  entry->started = true;
  return Turn(this, entry);
}

bool ConversionQueue::MayStart(EntryList::iterator entry) {
  const bool inner = entry->priority == Priority::kInner;
  if (pauses_ > 0 && !inner) return false;
  bool earlier = true;
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it == entry) {
      earlier = false;
      continue;
    }
    // Whoever waits goes first if it came first, unless this is inner work.
    const bool first = earlier && (!inner || it->priority == Priority::kInner);
    if ((it->started || first) && it->cancelled.ok() &&
        AnyOverlap(it->ranges, entry->ranges)) {
      return false;
    }
  }
  return true;
}

bool ConversionQueue::AnyUnderWay() {
  return std::any_of(
      entries_.begin(), entries_.end(), [](const Turn::Entry& entry) {
        return entry.started && entry.priority != Priority::kInner;
      });
}

void ConversionQueue::Leave(EntryList::iterator entry) {
  base::MutexLock lock(&mutex_);
  entries_.erase(entry);
  changed_.SignalAll();
}

void ConversionQueue::Pause() {
  base::MutexLock lock(&mutex_);
  ++pauses_;
  while (AnyUnderWay()) changed_.Wait(&mutex_);
}

void ConversionQueue::Resume() {
  base::MutexLock lock(&mutex_);
  if (pauses_ > 0) --pauses_;
  changed_.SignalAll();
}

bool ConversionQueue::paused() {
  base::MutexLock lock(&mutex_);
  return pauses_ > 0;
}

void ConversionQueue::CancelWaiting(const absl::Status& status) {
  base::MutexLock lock(&mutex_);
  Cancel(status);
}

void ConversionQueue::Cancel(const absl::Status& status) {
  for (Turn::Entry& entry : entries_) {
    if (!entry.started && entry.priority != Priority::kInner) {
      entry.cancelled = CopyForThread(status);
    }
  }
  changed_.SignalAll();
}

void ConversionQueue::Shutdown(const absl::Status& status) {
  base::MutexLock lock(&mutex_);
  if (!shutdown_.ok()) return;
  shutdown_ = CopyForThread(status);
  Cancel(status);
}

absl::Status ConversionQueue::stopped() {
  base::MutexLock lock(&mutex_);
  return CopyForThread(shutdown_);
}

bool ConversionQueue::Delay(std::chrono::nanoseconds duration) {
  base::MutexLock lock(&mutex_);
  return WaitFor(duration);
}

bool ConversionQueue::DelayGuest(std::chrono::nanoseconds duration) {
  base::MutexLock lock(&mutex_);
  ++delayed_;
  TellHeld();
  const bool in_time = WaitFor(duration);
  --delayed_;
  return in_time;
}

void ConversionQueue::TellHeld() {
  if (pauses_ > 0 && on_held_ != nullptr) on_held_();
}

bool ConversionQueue::WaitFor(std::chrono::nanoseconds duration) {
  const auto deadline = std::chrono::steady_clock::now() + duration;
  while (shutdown_.ok()) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return shutdown_.ok();
  }
  return false;
}

size_t ConversionQueue::waiting() {
  base::MutexLock lock(&mutex_);
  return std::count_if(entries_.begin(), entries_.end(),
                       [](const Turn::Entry& entry) { return !entry.started; });
}

size_t ConversionQueue::held() {
  base::MutexLock lock(&mutex_);
  return delayed_ +
         static_cast<size_t>(std::count_if(
             entries_.begin(), entries_.end(), [](const Turn::Entry& entry) {
               return !entry.started && entry.cancelled.ok() &&
                      entry.priority == Priority::kGuest;
             }));
}

}  // namespace cloister::memory
