// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/flow_limiter.h"

#include <chrono>
#include <memory>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::StatusIs;

class FlowLimiterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(loop_, base::EventLoop::Create());
  }
  void Make(const RateLimiterConfig& config) {
    ASSERT_OK_AND_ASSIGN(limiter_, FlowLimiter::Create(*loop_, config, [this] {
                           ++resumed_;
                           loop_->Stop();
                         }));
  }
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<FlowLimiter> limiter_;
  int resumed_ = 0;
};

TEST_F(FlowLimiterTest, WithoutLimitsNothingWaits) {
  Make({});
  EXPECT_FALSE(limiter_->bandwidth_limited());
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limiter_->Take(1 << 20));
  EXPECT_EQ(limiter_->throttled(), 0u);
}

TEST_F(FlowLimiterTest, ResumesWhenThereAreTokensAgain) {
  RateLimiterConfig config;
  config.bandwidth = {100, 0, std::chrono::milliseconds(20)};
  Make(config);
  EXPECT_TRUE(limiter_->bandwidth_limited());
  EXPECT_TRUE(limiter_->Take(100));
  EXPECT_FALSE(limiter_->Take(50));
  EXPECT_TRUE(limiter_->waiting());
  EXPECT_FALSE(limiter_->Take(0));  // in its turn
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 1);
  EXPECT_TRUE(limiter_->Take(50));
  EXPECT_EQ(limiter_->throttled(), 1u);
}

TEST_F(FlowLimiterTest, AnUpdateEndsTheWait) {
  RateLimiterConfig config;
  config.operations = {1, 0, std::chrono::hours(1)};
  Make(config);
  EXPECT_TRUE(limiter_->Take(1));
  EXPECT_FALSE(limiter_->Take(1));
  RateLimiterUpdate bad;
  bad.operations = TokenBucketConfig{1, 0, std::chrono::milliseconds(0)};
  EXPECT_THAT(limiter_->Update(bad),
              StatusIs(absl::StatusCode::kInvalidArgument));
  RateLimiterUpdate update;
  update.operations = TokenBucketConfig{};
  ASSERT_OK(limiter_->Update(update));
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 1);
  EXPECT_TRUE(limiter_->Take(1));
}

TEST_F(FlowLimiterTest, GivesBackAndForgets) {
  RateLimiterConfig config;
  config.bandwidth = {100, 0, std::chrono::hours(1)};
  Make(config);
  EXPECT_TRUE(limiter_->Take(100));
  limiter_->Return(100);
  EXPECT_TRUE(limiter_->Take(100));
  EXPECT_FALSE(limiter_->Take(1));
  limiter_->Cancel();
  EXPECT_FALSE(limiter_->waiting());
}

TEST_F(FlowLimiterTest, TakesNowOrNotAtAll) {
  RateLimiterConfig config;
  config.bandwidth = {2, 0, std::chrono::hours(1)};
  Make(config);
  EXPECT_TRUE(limiter_->TakeNow(2));
  EXPECT_FALSE(limiter_->TakeNow(1));
  EXPECT_FALSE(limiter_->waiting());
  EXPECT_EQ(limiter_->throttled(), 1u);
  limiter_->Return(1);
  EXPECT_TRUE(limiter_->TakeNow(1));
}

TEST_F(FlowLimiterTest, RefusesAnInvalidLimit) {
  RateLimiterConfig config;
  config.bandwidth = {100, 0, std::chrono::milliseconds(0)};
  EXPECT_THAT(FlowLimiter::Create(*loop_, config, [] {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace cloister::devices::virtio
