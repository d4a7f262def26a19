// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_RATE_LIMITER_TIMER_H_
#define CLOISTER_DEVICES_RATE_LIMITER_TIMER_H_

#include <chrono>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/unique_fd.h"

namespace cloister::devices {

// Wakes a device when RateLimiter::Consume said that it may go on: a timerfd(2)
// in the loop of the device's worker. Belongs to the loop's thread, except that
// it may be created elsewhere; destroyed on that thread or when the loop no
// longer runs.
class RateLimiterTimer {
 public:
  // `resume` is called on the loop's thread, once for each Arm that is not
  // followed by another Arm or Disarm in time. `loop` must outlive the timer.
  static absl::StatusOr<std::unique_ptr<RateLimiterTimer>> Create(
      base::EventLoop& loop, std::function<void()> resume);
  RateLimiterTimer(const RateLimiterTimer&) = delete;
  RateLimiterTimer& operator=(const RateLimiterTimer&) = delete;
  ~RateLimiterTimer();

  // Resumes `wait` from now (at once for zero or less), and no longer at the
  // time of an earlier call.
  void Arm(std::chrono::nanoseconds wait);
  void Disarm();
  bool armed() const { return armed_; }

 private:
  RateLimiterTimer(base::EventLoop& loop, base::UniqueFd fd,
                   std::function<void()> resume)
      : loop_(loop), fd_(std::move(fd)), resume_(std::move(resume)) {}
  void OnExpired();

  base::EventLoop& loop_;
  base::UniqueFd fd_;
  std::function<void()> resume_;
  bool armed_ = false;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_RATE_LIMITER_TIMER_H_
