// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_RATE_LIMITER_H_
#define CLOISTER_DEVICES_RATE_LIMITER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/base/mutex.h"

namespace cloister::devices {

// One limit, in the terms of Firecracker's API: a bucket of `size` tokens that
// fills evenly, from empty to full in `refill_time`, and beside it a reserve of
// `one_time_burst` tokens that is used first and never comes back.
struct TokenBucketConfig {
  uint64_t size = 0;  // 0: no limit
  uint64_t one_time_burst = 0;
  std::chrono::milliseconds refill_time{0};

  bool operator==(const TokenBucketConfig&) const = default;
};

// InvalidArgument, naming `what`, for a limit without a refill time, a negative
// or absurdly long (over a year) one, or a burst without a size.
absl::Status ValidateTokenBucket(const TokenBucketConfig& config,
                                 absl::string_view what);

// A token bucket. Knows no clock: each call is told the time, which does not
// go back. Not thread-safe.
class TokenBucket {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // A full bucket. `config` is valid.
  TokenBucket(const TokenBucketConfig& config, TimePoint now);

  // How long until `tokens` can be taken; zero if they can be taken now. What
  // exceeds the size can be taken from a full bucket, which then owes the rest.
  std::chrono::nanoseconds Wait(uint64_t tokens, TimePoint now);
  // Takes them, whether Wait says zero or not: what is missing is owed.
  void Take(uint64_t tokens, TimePoint now);
  // Gives back tokens that were taken and not used.
  void Return(uint64_t tokens);

  const TokenBucketConfig& config() const { return config_; }

 private:
  void Refill(TimePoint now);
  uint64_t refill_ns() const;

  TokenBucketConfig config_;
  uint64_t burst_;
  uint64_t level_;
  uint64_t debt_ = 0;  // non-zero only while level_ is zero
  TimePoint filled_;   // the time up to which level_ and debt_ are accounted
};

// The limits of one direction of one device.
struct RateLimiterConfig {
  TokenBucketConfig bandwidth;   // tokens are bytes
  TokenBucketConfig operations;  // tokens are requests or packets

  bool operator==(const RateLimiterConfig&) const = default;
};

// What to change at run time; what is absent stays, with the tokens it has.
// A new bucket starts full; one of size 0 takes the limit away.
struct RateLimiterUpdate {
  std::optional<TokenBucketConfig> bandwidth;
  std::optional<TokenBucketConfig> operations;
};

// A limit on bytes and one on operations, both or none of which a request
// takes. Thread-safe: a device consumes on its worker while the control API
// updates.
class RateLimiter {
 public:
  using Clock = std::function<TokenBucket::TimePoint()>;

  // Without limits. `clock` must be monotonic and thread-safe.
  explicit RateLimiter(Clock clock = [] {
    return std::chrono::steady_clock::now();
  });

  // InvalidArgument, changing nothing, for an invalid bucket.
  absl::Status Update(const RateLimiterUpdate& update);

  // Takes `bytes` and `operations` and returns zero; or takes nothing and
  // returns how long the caller has to wait (at least 1 ns) before it asks
  // again. An Update may shorten that: the device that is updated asks again.
  std::chrono::nanoseconds Consume(uint64_t bytes, uint64_t operations);
  // Gives back what a Consume took for a request that did not happen.
  void Refund(uint64_t bytes, uint64_t operations);

  RateLimiterConfig config() const;

 private:
  const Clock clock_;
  mutable base::Mutex mutex_;
  std::optional<TokenBucket> bandwidth_ ABSL_GUARDED_BY(mutex_);
  std::optional<TokenBucket> operations_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_RATE_LIMITER_H_
