// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/event_hub.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace cloister::api {
namespace {

// The line that tells of lost events; counts from 0 again.
std::string Notice(uint64_t* dropped) {
  return absl::StrCat(
      "{\"event\":\"dropped\",\"count\":", std::exchange(*dropped, 0), "}\n");
}

}  // namespace

int64_t EventHub::NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

EventHub::Subscription::~Subscription() { hub_->Remove(this); }

std::string EventHub::Subscription::Take(size_t limit) {
  base::MutexLock lock(&hub_->mutex_);
  std::string taken;
  while (!lines_.empty() && taken.size() < limit) {
    bytes_ -= lines_.front().size();
    taken += lines_.front();
    lines_.pop_front();
  }
  if (lines_.empty() && dropped_ > 0) taken += Notice(&dropped_);
  return taken;
}

std::unique_ptr<EventHub::Subscription> EventHub::Subscribe(
    std::function<void()> notify) {
  std::unique_ptr<Subscription> subscription(
      new Subscription(this, std::move(notify)));
  base::MutexLock lock(&mutex_);
  subscriptions_.push_back(subscription.get());
  return subscription;
}

void EventHub::Remove(Subscription* subscription) {
  base::MutexLock lock(&mutex_);
  subscriptions_.erase(
      std::remove(subscriptions_.begin(), subscriptions_.end(), subscription),
      subscriptions_.end());
}

void EventHub::Publish(absl::string_view event, Json details) {
  details["event"] = std::string(event);
  details["time_us"] = NowUs() - start_us_;
  const std::string line = JsonText(details) + "\n";
  base::MutexLock lock(&mutex_);
  for (Subscription* subscription : subscriptions_) {
    // The newest are the ones that are lost: what was queued stays in order,
    // and the notice of the loss is the next thing read after it.
    if (line.size() >
        queue_bytes_ - std::min(queue_bytes_, subscription->bytes_)) {
      ++subscription->dropped_;
      ++dropped_;
      continue;
    }
    const bool was_empty = subscription->lines_.empty();
    if (subscription->dropped_ > 0) {
      // Room again: say what is missing where it is missing.
      subscription->lines_.push_back(Notice(&subscription->dropped_));
      subscription->bytes_ += subscription->lines_.back().size();
    }
    subscription->lines_.push_back(line);
    subscription->bytes_ += line.size();
    if (was_empty) subscription->notify_();
  }
}

bool EventHub::has_listeners() {
  base::MutexLock lock(&mutex_);
  return !subscriptions_.empty();
}

uint64_t EventHub::dropped() {
  base::MutexLock lock(&mutex_);
  return dropped_;
}

}  // namespace cloister::api
