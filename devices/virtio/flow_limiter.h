// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_FLOW_LIMITER_H_
#define CLOISTER_DEVICES_VIRTIO_FLOW_LIMITER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/rate_limiter_timer.h"
#include "cloister/devices/virtio/counter.h"

namespace cloister::devices::virtio {

// A rate limiter and the timer that goes with it: one direction of one device.
// Belongs to the thread of `loop`, except where it says otherwise.
class FlowLimiter {
 public:
  // `resume` is called on the loop's thread when a flow that was held up may go
  // on. InvalidArgument for an invalid limit. `loop` outlives the limiter.
  static absl::StatusOr<std::unique_ptr<FlowLimiter>> Create(
      base::EventLoop& loop, const RateLimiterConfig& config,
      std::function<void()> resume);

  // Takes what a request needs; or takes nothing, sees to it that `resume` is
  // called, and returns false. False too while an earlier request waits.
  bool Take(uint64_t bytes, uint64_t operations = 1);
  // Takes, or does not, without waiting: for what is dropped otherwise. Any
  // thread, as long as this lives.
  bool TakeNow(uint64_t bytes, uint64_t operations = 1);
  // Gives back what a request took that did not happen.
  void Return(uint64_t bytes, uint64_t operations = 1) {
    limiter_.Refund(bytes, operations);
  }
  // Whether bytes count. Any thread.
  bool bandwidth_limited() const {
    return bandwidth_limited_.load(std::memory_order_relaxed);
  }
  bool waiting() const { return timer_->armed(); }
  // Forgets that something waits.
  void Cancel() { timer_->Disarm(); }

  // Any thread, as long as this and the loop live. InvalidArgument, changing
  // nothing, for an invalid limit.
  absl::Status Update(const RateLimiterUpdate& update);
  RateLimiterConfig config() const { return limiter_.config(); }
  // How often a request had to wait.
  uint64_t throttled() const { return throttled_.value(); }

 private:
  FlowLimiter(base::EventLoop& loop, std::function<void()> resume)
      : loop_(loop), resume_(std::move(resume)) {}

  base::EventLoop& loop_;
  const std::function<void()> resume_;
  RateLimiter limiter_;
  std::atomic<bool> bandwidth_limited_{false};
  Counter throttled_;
  std::unique_ptr<RateLimiterTimer> timer_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_FLOW_LIMITER_H_
