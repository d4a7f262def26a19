// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_QUEUE_H_
#define CLOISTER_MEMORY_CONVERSION_QUEUE_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/guest_address.h"

namespace cloister::memory {

// A copy for another thread that shares nothing with `status`, and leaves out
// payloads: the distribution's abseil counts references where ThreadSanitizer
// does not see it.
absl::Status CopyForThread(const absl::Status& status);

// Lets one request at a time work on any page: a lock on ranges of guest
// memory that is handed out in order of arrival. Requests for other pages pass
// each other. Nothing is dropped: a request waits until its pages are free, the
// queue is not paused, and everyone who came before and wants some of the same
// pages is done. Thread-safe.
class ConversionQueue {
 public:
  enum class Priority {
    kGuest,  // waits while the queue is paused; a reset cancels it
    kHost,   // as kGuest, but refused at once while the queue is paused
    kInner,  // the broker's own work: does not wait for those who wait, the
             // pause or the shutdown; never fails
  };

  // The turn of one request. Move-only; ends the turn when destroyed. Must not
  // outlive the queue.
  class Turn {
   public:
    Turn(Turn&& other) noexcept
        : queue_(std::exchange(other.queue_, nullptr)), entry_(other.entry_) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn();

   private:
    friend class ConversionQueue;
    struct Entry {
      std::vector<GuestRange> ranges;
      Priority priority;
      bool started;
      absl::Status cancelled;
    };
    Turn(ConversionQueue* queue, std::list<Entry>::iterator entry)
        : queue_(queue), entry_(entry) {}

    ConversionQueue* queue_;
    std::list<Entry>::iterator entry_;
  };

  // `on_held` is called, under the queue's lock, whenever another kGuest
  // request is held up by a pause (see held()); it must not call the queue.
  explicit ConversionQueue(std::function<void()> on_held = nullptr)
      : on_held_(std::move(on_held)) {}
  ConversionQueue(const ConversionQueue&) = delete;
  ConversionQueue& operator=(const ConversionQueue&) = delete;

  // Waits for a turn on `ranges` (ascending, apart from each other; with none
  // it waits for the end of a pause only). The status of Shutdown or
  // CancelWaiting if one of them comes first; Unavailable for a kHost request
  // while paused.
  absl::StatusOr<Turn> Enter(absl::Span<const GuestRange> ranges,
                             Priority priority);

  // As Enter with kInner for one that never waits: nullopt if somebody is at
  // work on some of `range`.
  std::optional<Turn> TryEnterInner(const GuestRange& range);

  // Lets no request but kInner begin, and returns once none is under way; those
  // that wait for their turn go on waiting. Pauses nest: each takes one Resume.
  // A Resume too many does nothing.
  void Pause();
  void Resume();
  bool paused();

  // Makes every waiting kGuest and kHost request fail with `status`.
  void CancelWaiting(const absl::Status& status);
  // Makes every waiting and every later kGuest and kHost request fail with
  // `status`. Those that have their turn keep it, and can ask stopped(). The
  // first call counts.
  void Shutdown(const absl::Status& status);
  // The status of Shutdown; OK before.
  absl::Status stopped();

  // Waits for `duration`; false, early, once the queue is shut down.
  bool Delay(std::chrono::nanoseconds duration);
  // The same for a guest's request that is going to Enter.
  bool DelayGuest(std::chrono::nanoseconds duration);

  // Requests without a turn yet.
  size_t waiting();
  // kGuest requests that wait, for a turn or in DelayGuest: none of their
  // threads goes on while the queue is paused.
  size_t held();

 private:
  using EntryList = std::list<Turn::Entry>;

  bool MayStart(EntryList::iterator entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Cancel(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AnyUnderWay() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave(EntryList::iterator entry);
  bool WaitFor(std::chrono::nanoseconds duration)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellHeld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void()> on_held_;  // may be empty
  base::Mutex mutex_;
  base::CondVar changed_;
  EntryList entries_ ABSL_GUARDED_BY(mutex_);  // in order of arrival
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t delayed_ ABSL_GUARDED_BY(mutex_) = 0;  // in DelayGuest
  absl::Status shutdown_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_QUEUE_H_
