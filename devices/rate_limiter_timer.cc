// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/rate_limiter_timer.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::devices {

absl::StatusOr<std::unique_ptr<RateLimiterTimer>> RateLimiterTimer::Create(
    base::EventLoop& loop, std::function<void()> resume) {
  base::UniqueFd fd(
      timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!fd.valid()) {
    return base::ErrnoStatus(errno, "timerfd_create(CLOCK_MONOTONIC)");
  }
  int number = fd.get();
  std::unique_ptr<RateLimiterTimer> timer(
      new RateLimiterTimer(loop, std::move(fd), std::move(resume)));
  RETURN_IF_ERROR(loop.Add(number, EPOLLIN, [timer = timer.get()](uint32_t) {
    timer->OnExpired();
  }));
  return timer;
}

RateLimiterTimer::~RateLimiterTimer() { loop_.Remove(fd_.get()); }

void RateLimiterTimer::Arm(std::chrono::nanoseconds wait) {
  int64_t ns = std::max<int64_t>(wait.count(), 1);
  struct itimerspec when = {};
  when.it_value.tv_sec = ns / 1000000000;
  when.it_value.tv_nsec = ns % 1000000000;
  armed_ = timerfd_settime(fd_.get(), 0, &when, nullptr) == 0;
}

void RateLimiterTimer::Disarm() {
  struct itimerspec never = {};
  timerfd_settime(fd_.get(), 0, &never, nullptr);
  armed_ = false;
}

void RateLimiterTimer::OnExpired() {
  uint64_t times;
  // Nothing to read: it was set anew after epoll reported it.
  if (read(fd_.get(), &times, sizeof(times)) != sizeof(times)) return;
  armed_ = false;
  resume_();
}

}  // namespace cloister::devices
