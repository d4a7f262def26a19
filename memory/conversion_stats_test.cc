// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_stats.h"

#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using std::chrono::nanoseconds;

TEST(LatencyBucketTest, PowersOfTwo) {
  EXPECT_EQ(LatencyBucket(nanoseconds(-5)), 0u);
  EXPECT_EQ(LatencyBucket(nanoseconds(0)), 0u);
  EXPECT_EQ(LatencyBucket(nanoseconds(1)), 0u);
  EXPECT_EQ(LatencyBucket(nanoseconds(2)), 1u);
  EXPECT_EQ(LatencyBucket(nanoseconds(1023)), 9u);
  EXPECT_EQ(LatencyBucket(nanoseconds(1024)), 10u);
  EXPECT_EQ(LatencyBucket(nanoseconds::max()), LatencyHistogram().size() - 1);
}

TEST(ConversionStatsCollectorTest, CountsByDirectionAndOrigin) {
  ConversionStatsCollector collector;
  collector.RecordConverted(ConversionOrigin::kImplicit, PageState::kShared, 5);
  collector.RecordConverted(ConversionOrigin::kImplicit, PageState::kShared, 6);
  collector.RecordConverted(ConversionOrigin::kHost, PageState::kPrivate, 7);
  collector.RecordConverted(ConversionOrigin::kHost, PageState::kPrivate, 0);
  collector.RecordRollback("vhost");
  collector.RecordRollback("vhost");
  collector.RecordLatency(nanoseconds(1024));
  const ConversionStats stats = collector.Snapshot();
  EXPECT_EQ(stats.to_shared[1].requests, 2u);
  EXPECT_EQ(stats.to_shared[1].bytes, 11u);
  EXPECT_EQ(stats.to_shared[0].requests, 0u);
  EXPECT_EQ(stats.to_private[2].requests, 1u);
  EXPECT_EQ(stats.to_private[2].bytes, 7u);
  EXPECT_EQ(stats.rollbacks_by_listener.at("vhost"), 2u);
  EXPECT_EQ(stats.latency[10], 1u);
}

}  // namespace
}  // namespace cloister::memory
