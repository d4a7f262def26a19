// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/rate_limiter_timer.h"

#include "cloister/base/status_matchers.h"

namespace cloister::devices {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

class RateLimiterTimerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(loop_, base::EventLoop::Create());
    ASSERT_OK_AND_ASSIGN(timer_, RateLimiterTimer::Create(*loop_, [this] {
                           ++resumed_;
                           if (on_resume_) on_resume_();
                         }));
  }

  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<RateLimiterTimer> timer_;
  int resumed_ = 0;
  std::function<void()> on_resume_;
};

TEST_F(RateLimiterTimerTest, ResumesNotBeforeTheTime) {
  steady_clock::time_point start = steady_clock::now();
  on_resume_ = [this] { loop_->Stop(); };
  timer_->Arm(milliseconds(20));
  EXPECT_TRUE(timer_->armed());
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 1);
  EXPECT_FALSE(timer_->armed());
  EXPECT_GE(steady_clock::now() - start, milliseconds(20));
}

TEST_F(RateLimiterTimerTest, ResumesAtOnceForZero) {
  on_resume_ = [this] { loop_->Stop(); };
  timer_->Arm(nanoseconds(0));
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 1);
}

TEST_F(RateLimiterTimerTest, ALaterArmReplacesAnEarlierOne) {
  on_resume_ = [this] { loop_->Stop(); };
  timer_->Arm(hours(10));
  timer_->Arm(milliseconds(1));
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 1);
}

TEST_F(RateLimiterTimerTest, MayBeArmedAgainFromResume) {
  on_resume_ = [this] {
    if (resumed_ == 3) {
      loop_->Stop();
    } else {
      timer_->Arm(milliseconds(1));
    }
  };
  timer_->Arm(milliseconds(1));
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 3);
}

TEST_F(RateLimiterTimerTest, DisarmedDoesNotResume) {
  ASSERT_OK_AND_ASSIGN(
      std::unique_ptr<RateLimiterTimer> other,
      RateLimiterTimer::Create(*loop_, [this] { loop_->Stop(); }));
  timer_->Arm(nanoseconds(1));
  timer_->Disarm();
  EXPECT_FALSE(timer_->armed());
  other->Arm(milliseconds(5));
  EXPECT_OK(loop_->Run());
  EXPECT_EQ(resumed_, 0);
}

}  // namespace
}  // namespace cloister::devices
