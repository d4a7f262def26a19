// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_policy.h"

#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr ConversionRateLimiter::Time kStart(seconds(1000));

TEST(ConversionRateLimiterTest, NoLimitNeverDelays) {
  ConversionRateLimiter limiter{ConversionPolicy{}};
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(limiter.Take(kStart).count(), 0);
}

TEST(ConversionRateLimiterTest, DelaysPastTheBurstByOneIntervalEach) {
  ConversionPolicy policy;
  policy.per_second = 100;
  policy.burst = 3;
  ConversionRateLimiter limiter(policy);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(limiter.Take(kStart).count(), 0) << i;
  EXPECT_EQ(limiter.Take(kStart), milliseconds(10));
  EXPECT_EQ(limiter.Take(kStart), milliseconds(20));
  // An hour of rest earns no more than the burst.
  const auto later = kStart + std::chrono::hours(1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(limiter.Take(later).count(), 0) << i;
  EXPECT_EQ(limiter.Take(later), milliseconds(10));
}

TEST(ConversionRateLimiterTest, ExtremesDoNotOverflow) {
  ConversionPolicy policy;
  policy.per_second = 1;
  policy.burst = UINT64_MAX;
  EXPECT_EQ(ConversionRateLimiter(policy).Take(kStart).count(), 0);
  policy.per_second = UINT64_MAX;
  policy.burst = 0;
  ConversionRateLimiter fast(policy);
  EXPECT_EQ(fast.Take(kStart).count(), 0);
  EXPECT_EQ(fast.Take(kStart), nanoseconds(1));
}

TEST(ConversionRateLimiterTest, AnotherRateTakesEffectWithoutTheOldDebt) {
  ConversionPolicy policy;
  policy.per_second = 1;
  policy.burst = 1;
  ConversionRateLimiter limiter(policy);
  for (int i = 0; i < 100; ++i) limiter.Take(kStart);
  EXPECT_EQ(limiter.Take(kStart), seconds(100));
  policy.per_second = 100;
  policy.burst = 2;
  limiter.SetPolicy(policy, kStart);
  EXPECT_EQ(limiter.Take(kStart), milliseconds(10));
  const auto later = kStart + seconds(1);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(limiter.Take(later).count(), 0) << i;
  EXPECT_EQ(limiter.Take(later), milliseconds(10));
  policy.per_second = 0;
  limiter.SetPolicy(policy, later);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(limiter.Take(later).count(), 0);
}

TEST(SharedBudgetTest, AnotherLimitLeavesWhatIsShared) {
  SharedBudget budget(10);
  EXPECT_TRUE(budget.TryTake(10));
  budget.SetLimit(4);
  EXPECT_EQ(budget.limit(), 4u);
  EXPECT_EQ(budget.used(), 10u);
  budget.Return(6);
  EXPECT_FALSE(budget.TryTake(1));
  budget.Return(1);
  EXPECT_TRUE(budget.TryTake(1));
  budget.SetLimit(UINT64_MAX);
  EXPECT_TRUE(budget.TryTake(1 << 20));
}

TEST(SharedBudgetTest, CountsAgainstItsLimit) {
  SharedBudget budget(10);
  EXPECT_TRUE(budget.TryTake(10));
  EXPECT_FALSE(budget.TryTake(1));
  budget.Return(4);
  EXPECT_FALSE(budget.TryTake(UINT64_MAX));
  EXPECT_FALSE(budget.TryTake(5));
  EXPECT_TRUE(budget.TryTake(4));
  budget.Take(5);  // before boot: whatever the limit
  EXPECT_EQ(budget.used(), 15u);
  EXPECT_FALSE(budget.TryTake(1));
  EXPECT_TRUE(budget.TryTake(0));  // a no-op passes
}

}  // namespace
}  // namespace cloister::memory
