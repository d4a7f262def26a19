// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_policy.h"

#include <algorithm>

namespace cloister::memory {
namespace {

using std::chrono::nanoseconds;

constexpr uint64_t kNanosPerSecond = 1'000'000'000;
// Longest memory of an idle bucket, against overflow: one day.
constexpr uint64_t kMaxDepth = uint64_t{86'400} * kNanosPerSecond;

nanoseconds IntervalOf(const ConversionPolicy& policy) {
  if (policy.per_second == 0) return nanoseconds(0);
  return nanoseconds(
      std::max<uint64_t>(1, kNanosPerSecond / policy.per_second));
}

nanoseconds DepthOf(const ConversionPolicy& policy) {
  const uint64_t interval = IntervalOf(policy).count();
  if (interval == 0) return nanoseconds(0);
  const uint64_t burst = std::max<uint64_t>(1, policy.burst);
  return nanoseconds(interval * std::min(burst, kMaxDepth / interval));
}

}  // namespace

ConversionRateLimiter::ConversionRateLimiter(const ConversionPolicy& policy)
    : interval_(IntervalOf(policy)), depth_(DepthOf(policy)) {}

nanoseconds ConversionRateLimiter::Take(Time now) {
  base::MutexLock lock(&mutex_);
  if (interval_ == nanoseconds(0)) return nanoseconds(0);
  // A full bucket at most: the past counts for no more than `depth_`.
  empty_at_ = std::max(empty_at_, now - depth_) + interval_;
  return std::max(nanoseconds(0),
                  std::chrono::duration_cast<nanoseconds>(empty_at_ - now));
}

void ConversionRateLimiter::SetPolicy(const ConversionPolicy& policy,
                                      Time now) {
  base::MutexLock lock(&mutex_);
  interval_ = IntervalOf(policy);
  depth_ = DepthOf(policy);
  empty_at_ = std::min(empty_at_, now);
}

bool SharedBudget::TryTake(uint64_t bytes) {
  if (bytes == 0) return true;  // a no-op is fine even past the limit
  base::MutexLock lock(&mutex_);
  if (used_ > limit_ || bytes > limit_ - used_) return false;
  used_ += bytes;
  return true;
}

void SharedBudget::Take(uint64_t bytes) {
  base::MutexLock lock(&mutex_);
  used_ += bytes;
}

void SharedBudget::Return(uint64_t bytes) {
  base::MutexLock lock(&mutex_);
  used_ -= bytes;
}

uint64_t SharedBudget::used() {
  base::MutexLock lock(&mutex_);
  return used_;
}

void SharedBudget::SetLimit(uint64_t limit) {
  base::MutexLock lock(&mutex_);
  limit_ = limit;
}

uint64_t SharedBudget::limit() {
  base::MutexLock lock(&mutex_);
  return limit_;
}

}  // namespace cloister::memory
