// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/flow_limiter.h"

#include <chrono>
#include <utility>

#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

absl::StatusOr<std::unique_ptr<FlowLimiter>> FlowLimiter::Create(
    base::EventLoop& loop, const RateLimiterConfig& config,
    std::function<void()> resume) {
  std::unique_ptr<FlowLimiter> limiter(
      new FlowLimiter(loop, std::move(resume)));
  RETURN_IF_ERROR(
      limiter->limiter_.Update({config.bandwidth, config.operations}));
  limiter->bandwidth_limited_.store(config.bandwidth.size != 0);
  ASSIGN_OR_RETURN(limiter->timer_,
                   RateLimiterTimer::Create(loop, limiter->resume_));
  return limiter;
}

bool FlowLimiter::Take(uint64_t bytes, uint64_t operations) {
  if (timer_->armed()) return false;
  const std::chrono::nanoseconds wait = limiter_.Consume(bytes, operations);
  if (wait == std::chrono::nanoseconds::zero()) return true;
  throttled_.Add();
  timer_->Arm(wait);
  return false;
}

bool FlowLimiter::TakeNow(uint64_t bytes, uint64_t operations) {
  if (limiter_.Consume(bytes, operations) == std::chrono::nanoseconds::zero()) {
    return true;
  }
  throttled_.Add();
  return false;
}

absl::Status FlowLimiter::Update(const RateLimiterUpdate& update) {
  RETURN_IF_ERROR(limiter_.Update(update));
  if (update.bandwidth.has_value()) {
    bandwidth_limited_.store(update.bandwidth->size != 0);
  }
  loop_.Post([this] {
    if (!timer_->armed()) return;
    // The wait may be shorter now: ask again.
    timer_->Arm(std::chrono::nanoseconds::zero());
  });
  return absl::OkStatus();
}

}  // namespace cloister::devices::virtio
