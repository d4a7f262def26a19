// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/rate_limiter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using Wide = unsigned __int128;

constexpr milliseconds kLongestRefill = std::chrono::hours(24 * 365);

// value * numerator / denominator, without overflow in between; the result is
// cut to what fits.
uint64_t Scale(uint64_t value, uint64_t numerator, uint64_t denominator,
               bool round_up) {
  Wide product = static_cast<Wide>(value) * numerator;
  if (round_up) product += denominator - 1;
  return static_cast<uint64_t>(
      std::min<Wide>(product / denominator, UINT64_MAX));
}

}  // namespace

absl::Status ValidateTokenBucket(const TokenBucketConfig& config,
                                 absl::string_view what) {
  if (config.refill_time < milliseconds(0) ||
      config.refill_time > kLongestRefill) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": refill time of ", config.refill_time.count(),
                     " ms is not within 0 ms to a year"));
  }
  if (config.size != 0 && config.refill_time == milliseconds(0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, ": a bucket of ", config.size, " tokens needs a refill time"));
  }
  if (config.size == 0 && config.one_time_burst != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": a burst of ", config.one_time_burst,
                     " tokens beside a bucket of none"));
  }
  return absl::OkStatus();
}

TokenBucket::TokenBucket(const TokenBucketConfig& config, TimePoint now)
    : config_(config),
      burst_(config.one_time_burst),
      level_(config.size),
      filled_(now) {}

uint64_t TokenBucket::refill_ns() const {
  return static_cast<uint64_t>(nanoseconds(config_.refill_time).count());
}

void TokenBucket::Refill(TimePoint now) {
  if (now <= filled_) return;
  uint64_t elapsed = static_cast<uint64_t>(nanoseconds(now - filled_).count());
  uint64_t tokens = Scale(elapsed, config_.size, refill_ns(), false);
  uint64_t room = config_.size - level_;
  if (tokens >= debt_ && tokens - debt_ >= room) {
    debt_ = 0;
    level_ = config_.size;
    filled_ = now;
    return;
  }
  uint64_t paid = std::min(debt_, tokens);
  debt_ -= paid;
  level_ += tokens - paid;
  // The time of a token's fraction stays to be accounted for.
  filled_ += nanoseconds(Scale(tokens, refill_ns(), config_.size, false));
}

nanoseconds TokenBucket::Wait(uint64_t tokens, TimePoint now) {
  Refill(now);
  if (tokens <= burst_) return nanoseconds(0);
  uint64_t needed = std::min(tokens - burst_, config_.size);
  if (debt_ == 0 && needed <= level_) return nanoseconds(0);
  uint64_t missing = needed - level_;
  missing += std::min(debt_, UINT64_MAX - missing);
  uint64_t total = Scale(missing, refill_ns(), config_.size, true);
  uint64_t elapsed = static_cast<uint64_t>(
      std::max(nanoseconds(now - filled_), nanoseconds(0)).count());
  uint64_t left = total > elapsed ? total - elapsed : 1;
  return nanoseconds(std::min<uint64_t>(left, INT64_MAX / 2));
}

void TokenBucket::Take(uint64_t tokens, TimePoint now) {
  Refill(now);
  uint64_t from_burst = std::min(burst_, tokens);
  burst_ -= from_burst;
  tokens -= from_burst;
  uint64_t from_level = std::min(level_, tokens);
  level_ -= from_level;
  tokens -= from_level;
  debt_ += std::min(tokens, UINT64_MAX - debt_);
}

void TokenBucket::Return(uint64_t tokens) {
  uint64_t paid = std::min(debt_, tokens);
  debt_ -= paid;
  level_ += std::min(tokens - paid, config_.size - level_);
}

RateLimiter::RateLimiter(Clock clock) : clock_(std::move(clock)) {}

absl::Status RateLimiter::Update(const RateLimiterUpdate& update) {
  if (update.bandwidth.has_value()) {
    RETURN_IF_ERROR(ValidateTokenBucket(*update.bandwidth, "bandwidth"));
  }
  if (update.operations.has_value()) {
    RETURN_IF_ERROR(ValidateTokenBucket(*update.operations, "operations"));
  }
  auto replace = [now = clock_()](
                     const std::optional<TokenBucketConfig>& config,
                     std::optional<TokenBucket>& bucket) {
    if (!config.has_value()) return;
    bucket.reset();
    if (config->size != 0) bucket.emplace(*config, now);
  };
  base::MutexLock lock(&mutex_);
  replace(update.bandwidth, bandwidth_);
  replace(update.operations, operations_);
  return absl::OkStatus();
}

nanoseconds RateLimiter::Consume(uint64_t bytes, uint64_t operations) {
  base::MutexLock lock(&mutex_);
  if (!bandwidth_.has_value() && !operations_.has_value()) {
    return nanoseconds(0);
  }
  TokenBucket::TimePoint now = clock_();
  nanoseconds wait(0);
  if (bandwidth_.has_value()) wait = bandwidth_->Wait(bytes, now);
  if (operations_.has_value()) {
    wait = std::max(wait, operations_->Wait(operations, now));
  }
  if (wait > nanoseconds(0)) return wait;
  if (bandwidth_.has_value()) bandwidth_->Take(bytes, now);
  if (operations_.has_value()) operations_->Take(operations, now);
  return nanoseconds(0);
}

void RateLimiter::Refund(uint64_t bytes, uint64_t operations) {
  base::MutexLock lock(&mutex_);
  if (bandwidth_.has_value()) bandwidth_->Return(bytes);
  if (operations_.has_value()) operations_->Return(operations);
}

RateLimiterConfig RateLimiter::config() const {
  base::MutexLock lock(&mutex_);
  RateLimiterConfig config;
  if (bandwidth_.has_value()) config.bandwidth = bandwidth_->config();
  if (operations_.has_value()) config.operations = operations_->config();
  return config;
}

}  // namespace cloister::devices
