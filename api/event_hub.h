// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_EVENT_HUB_H_
#define CLOISTER_API_EVENT_HUB_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/base/mutex.h"

namespace cloister::api {

// Hands events to everybody who listens: lines of JSON with "time_us" (since
// the hub was made), "event" and what else there is to say. Publishing never
// waits for a listener. Thread-safe.
class EventHub {
 public:
  // One listener's queue. What it does not take in time is dropped and counted.
  class Subscription {
   public:
    ~Subscription();
    // Lines that have come, each with its newline, at most about `limit` bytes;
    // empty if there are none. A line {"event":"dropped","count":3} stands
    // where three events are missing.
    std::string Take(size_t limit);

   private:
    friend class EventHub;
    Subscription(EventHub* hub, std::function<void()> notify)
        : hub_(hub), notify_(std::move(notify)) {}
    EventHub* const hub_;
    const std::function<void()> notify_;
    // Guarded by hub_->mutex_.
    std::deque<std::string> lines_;
    size_t bytes_ = 0;
    uint64_t dropped_ = 0;
  };

  // `queue_bytes` bounds each listener's queue.
  explicit EventHub(size_t queue_bytes = 256 << 10)
      : queue_bytes_(queue_bytes) {}
  EventHub(const EventHub&) = delete;
  EventHub& operator=(const EventHub&) = delete;

  // Listens from now on, until the subscription is destroyed, which must be
  // before the hub is. `notify` is called when the queue stops being empty, on
  // the publisher's thread and under the hub's lock: it must only wake
  // somebody.
  std::unique_ptr<Subscription> Subscribe(std::function<void()> notify);

  // `details` is an object; its "event" and "time_us" are overwritten.
  void Publish(absl::string_view event, Json details);
  bool has_listeners();
  // Events that some listener missed, so far.
  uint64_t dropped();

 private:
  void Remove(Subscription* subscription);

  const size_t queue_bytes_;
  const int64_t start_us_ = NowUs();
  static int64_t NowUs();
  base::Mutex mutex_;
  std::vector<Subscription*> subscriptions_ ABSL_GUARDED_BY(mutex_);
  uint64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_EVENT_HUB_H_
