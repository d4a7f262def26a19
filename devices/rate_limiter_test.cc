// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/rate_limiter.h"

#include <atomic>
#include <random>
#include <thread>

#include "cloister/base/status_matchers.h"

namespace cloister::devices {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

class RateLimiterTest : public ::testing::Test {
 protected:
  void Limit(TokenBucketConfig bandwidth, TokenBucketConfig operations = {}) {
    ASSERT_OK(limiter_.Update({bandwidth, operations}));
  }
  nanoseconds Bytes(uint64_t bytes) { return limiter_.Consume(bytes, 1); }

  TokenBucket::TimePoint now_{seconds(1000)};
  RateLimiter limiter_{[this] { return now_; }};
};

constexpr nanoseconds kNow{0};

TEST_F(RateLimiterTest, WithoutLimitsEverythingPasses) {
  EXPECT_EQ(limiter_.Consume(UINT64_MAX, UINT64_MAX), kNow);
  EXPECT_EQ(limiter_.Consume(UINT64_MAX, UINT64_MAX), kNow);
  EXPECT_EQ(limiter_.config(), RateLimiterConfig());
}

TEST_F(RateLimiterTest, SaysExactlyWhenToGoOn) {
  Limit({1000, 0, milliseconds(100)});  // 10 bytes per millisecond
  EXPECT_EQ(Bytes(1000), kNow);
  EXPECT_EQ(Bytes(10), milliseconds(1));
  EXPECT_EQ(Bytes(500), milliseconds(50));
  now_ += milliseconds(50) - nanoseconds(1);
  EXPECT_EQ(Bytes(500), nanoseconds(1));
  now_ += nanoseconds(1);
  EXPECT_EQ(Bytes(500), kNow);
  EXPECT_EQ(Bytes(1), nanoseconds(100000));
}

TEST_F(RateLimiterTest, ARefusedRequestTakesNothing) {
  Limit({1000, 0, milliseconds(100)}, {2, 0, milliseconds(1000)});
  EXPECT_EQ(limiter_.Consume(400, 1), kNow);
  EXPECT_EQ(limiter_.Consume(700, 1), milliseconds(10));
  // Neither the operation nor the bytes of the refused one are gone.
  EXPECT_EQ(limiter_.Consume(600, 1), kNow);
  now_ += milliseconds(100);
  EXPECT_EQ(limiter_.Consume(1, 1), milliseconds(400));
  EXPECT_EQ(limiter_.Consume(1000, 0), kNow);
}

TEST_F(RateLimiterTest, TheBurstComesFirstAndOnce) {
  Limit({100, 50, milliseconds(100)});
  EXPECT_EQ(Bytes(30), kNow);
  EXPECT_EQ(Bytes(120), kNow);  // 20 of the burst, 100 of the bucket
  EXPECT_EQ(Bytes(1), milliseconds(1));
  now_ += seconds(10);
  EXPECT_EQ(Bytes(100), kNow);
  EXPECT_EQ(Bytes(1), milliseconds(1));
}

TEST_F(RateLimiterTest, ARequestBeyondTheSizeIsPaidForAfterwards) {
  Limit({100, 0, milliseconds(100)});
  EXPECT_EQ(Bytes(1), kNow);
  EXPECT_EQ(Bytes(350), milliseconds(1));  // waits for a full bucket
  now_ += milliseconds(1);
  EXPECT_EQ(Bytes(350), kNow);
  EXPECT_EQ(Bytes(1), milliseconds(251));
  EXPECT_EQ(Bytes(350), milliseconds(350));
  now_ += milliseconds(100);
  EXPECT_EQ(Bytes(1), milliseconds(151));
  now_ += milliseconds(151);
  EXPECT_EQ(Bytes(1), kNow);
}

TEST_F(RateLimiterTest, RefundsFillUpToTheSize) {
  Limit({100, 0, milliseconds(100)}, {1, 0, milliseconds(100)});
  EXPECT_EQ(limiter_.Consume(300, 1), kNow);
  limiter_.Refund(250, 1);
  EXPECT_EQ(limiter_.Consume(50, 1), kNow);
  EXPECT_NE(limiter_.Consume(1, 0), kNow);
  limiter_.Refund(UINT64_MAX, UINT64_MAX);
  EXPECT_EQ(limiter_.Consume(100, 1), kNow);
  EXPECT_NE(limiter_.Consume(1, 0), kNow);
}

TEST_F(RateLimiterTest, UpdatesOnlyWhatIsNamed) {
  Limit({100, 0, milliseconds(100)}, {1, 0, milliseconds(1000)});
  EXPECT_EQ(limiter_.Consume(100, 1), kNow);
  ASSERT_OK(limiter_.Update(
      {TokenBucketConfig{200, 0, milliseconds(100)}, std::nullopt}));
  EXPECT_EQ(limiter_.config().bandwidth.size, 200u);
  EXPECT_EQ(limiter_.config().operations.size, 1u);
  EXPECT_EQ(limiter_.Consume(200, 1), milliseconds(1000));
  ASSERT_OK(limiter_.Update({std::nullopt, TokenBucketConfig{}}));
  EXPECT_EQ(limiter_.Consume(200, 1), kNow);
  ASSERT_OK(limiter_.Update({TokenBucketConfig{}, std::nullopt}));
  EXPECT_EQ(limiter_.Consume(UINT64_MAX, 1), kNow);
}

TEST_F(RateLimiterTest, RefusesInvalidBuckets) {
  Limit({100, 0, milliseconds(100)});
  EXPECT_THAT(limiter_.Update({TokenBucketConfig{1, 0, milliseconds(0)}, {}}),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("bandwidth: a bucket of 1 tokens")));
  EXPECT_THAT(limiter_.Update({{}, TokenBucketConfig{1, 0, milliseconds(-1)}}),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("operations: refill time of -1 ms")));
  EXPECT_THAT(
      limiter_.Update(
          {{}, TokenBucketConfig{1, 0, std::chrono::hours(24 * 366)}}),
      base::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a year")));
  EXPECT_THAT(limiter_.Update({TokenBucketConfig{0, 7, milliseconds(1)}, {}}),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("a burst of 7 tokens")));
  EXPECT_EQ(limiter_.config().bandwidth.size, 100u);
}

TEST_F(RateLimiterTest, ExtremesNeitherOverflowNorStandStill) {
  Limit({UINT64_MAX, UINT64_MAX, milliseconds(1)});
  EXPECT_EQ(Bytes(UINT64_MAX), kNow);
  EXPECT_EQ(Bytes(UINT64_MAX), kNow);
  nanoseconds wait = Bytes(UINT64_MAX);
  EXPECT_EQ(wait, milliseconds(1));
  Limit({1, 0, std::chrono::hours(24 * 365)});
  EXPECT_EQ(Bytes(UINT64_MAX), kNow);
  wait = Bytes(UINT64_MAX);
  EXPECT_GT(wait, std::chrono::hours(24 * 365));
  now_ += std::chrono::hours(24 * 365);
  EXPECT_GT(Bytes(1), kNow);
}

TEST_F(RateLimiterTest, AClockThatStandsStillOrGoesBackGivesNothing) {
  Limit({10, 0, milliseconds(10)});
  EXPECT_EQ(Bytes(10), kNow);
  now_ -= milliseconds(5);
  EXPECT_EQ(Bytes(10), milliseconds(10));
  now_ += milliseconds(5);
  EXPECT_EQ(Bytes(10), milliseconds(10));
}

// Whatever the sizes and however often it is asked, the rate over a long time
// is the one that was configured: fractions of tokens are not lost.
TEST_F(RateLimiterTest, KeepsTheRateOverALongTime) {
  std::mt19937_64 random(7);
  Limit({999, 0, milliseconds(7)});
  TokenBucket::TimePoint start = now_;
  uint64_t taken = 0;
  while (now_ - start < seconds(20)) {
    uint64_t bytes = 1 + random() % 3000;
    nanoseconds wait = Bytes(bytes);
    if (wait == kNow) {
      taken += bytes;
      continue;
    }
    // Wake up early, in time or late.
    now_ += nanoseconds(1 + random() % (2 * wait.count()));
  }
  double expected = 999.0 / 0.007 * 20;
  EXPECT_LT(taken, expected * 1.001 + 4000);
  EXPECT_GT(taken, expected * 0.5);
}

TEST_F(RateLimiterTest, WaitingAsToldReachesTheRate) {
  Limit({999, 0, milliseconds(7)});
  TokenBucket::TimePoint start = now_;
  uint64_t taken = 0;
  while (now_ - start < seconds(20)) {
    nanoseconds wait = Bytes(123);
    if (wait == kNow) {
      taken += 123;
    } else {
      now_ += wait;
    }
  }
  EXPECT_NEAR(taken, 999.0 / 0.007 * 20, 2000);
}

TEST_F(RateLimiterTest, UpdatesWhileOthersConsume) {
  Limit({1000, 0, milliseconds(1)});
  std::atomic<bool> stop{false};
  std::thread consumer([&] {
    while (!stop) limiter_.Consume(10, 1);
  });
  for (uint64_t i = 1; i <= 1000; ++i) {
    ASSERT_OK(limiter_.Update({TokenBucketConfig{i, 0, milliseconds(1)}, {}}));
  }
  stop = true;
  consumer.join();
  EXPECT_EQ(limiter_.config().bandwidth.size, 1000u);
}

}  // namespace
}  // namespace cloister::devices
