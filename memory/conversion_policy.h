// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_POLICY_H_
#define CLOISTER_MEMORY_CONVERSION_POLICY_H_

#include <chrono>
#include <cstdint>

#include "cloister/base/mutex.h"

namespace cloister::memory {

// What becomes of a conversion that no hypercall announced, from the set point
// on. Before it every one is allowed: Linux needs hundreds while it boots.
enum class ImplicitPolicy {
  kAllow,
  kCount,  // allow, and count apart
  kDeny,   // the VM ends
};

struct ConversionPolicy {
  ImplicitPolicy implicit = ImplicitPolicy::kCount;
  // Bytes that the guest may share at any time; a request for more is refused.
  uint64_t shared_limit = UINT64_MAX;
  // Guest requests in each second, on average; 0 for no limit. A guest that
  // asks faster is delayed, never refused: Linux ignores a refusal.
  uint64_t per_second = 0;
  // Requests that may come at once before the limit is felt; at least 1.
  uint64_t burst = 64;
};

// Turns a rate into delays: a token bucket that may go into debt. Thread-safe.
class ConversionRateLimiter {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit ConversionRateLimiter(const ConversionPolicy& policy);

  // Takes one token at `now`; how long its owner has to wait for it.
  std::chrono::nanoseconds Take(Time now);

  // Another rate and burst, for tokens taken from now on: a debt of the old
  // rate is forgiven, and leaves an empty bucket.
  void SetPolicy(const ConversionPolicy& policy, Time now);

 private:
  base::Mutex mutex_;
  // Between tokens; 0: no limit.
  std::chrono::nanoseconds interval_ ABSL_GUARDED_BY(mutex_);
  // Of the full bucket, as time.
  std::chrono::nanoseconds depth_ ABSL_GUARDED_BY(mutex_);
  // When the bucket was or will be empty, had every token been used.
  Time empty_at_ ABSL_GUARDED_BY(mutex_);
};

// Counts shared bytes against their limit, those of conversions in flight
// included, so that two requests cannot both take the last page. Thread-safe.
class SharedBudget {
 public:
  explicit SharedBudget(uint64_t limit) : limit_(limit) {}

  // False, taking nothing, if `bytes` more would pass the limit.
  bool TryTake(uint64_t bytes);
  // Counts `bytes` that are shared whatever the limit says (before boot).
  void Take(uint64_t bytes);
  void Return(uint64_t bytes);
  uint64_t used();

  // Another limit. What is shared beyond it stays; nothing more fits.
  void SetLimit(uint64_t limit);
  uint64_t limit();

 private:
  base::Mutex mutex_;
  uint64_t limit_ ABSL_GUARDED_BY(mutex_);
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_POLICY_H_
