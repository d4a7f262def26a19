// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_stats.h"

#include <cerrno>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

BlkRequest Request(BlkType type, uint64_t length = 0) {
  BlkRequest request;
  request.type = type;
  request.length = length;
  return request;
}

TEST(BlkStatsTest, CountsByType) {
  BlkStats stats;
  stats.Done(Request(BlkType::kRead, 512), false);
  stats.Done(Request(BlkType::kRead, 1024), true);
  stats.Done(Request(BlkType::kWrite, 4096), false);
  stats.Done(Request(BlkType::kFlush), false);
  stats.Done(Request(BlkType::kGetId), false);
  stats.Done(Request(BlkType::kDiscard), false);
  stats.Done(Request(BlkType::kWriteZeroes), false);
  stats.Refused(BlkRefusal::kReadOnly);
  stats.Refused(BlkRefusal::kUnsupported);
  BlkCounters counters = stats.Snapshot();
  EXPECT_EQ(counters.reads, 2u);
  EXPECT_EQ(counters.read_bytes, 1536u);
  EXPECT_EQ(counters.writes, 1u);
  EXPECT_EQ(counters.written_bytes, 4096u);
  EXPECT_EQ(counters.flushes, 1u);
  EXPECT_EQ(counters.ids, 1u);
  EXPECT_EQ(counters.discards, 1u);
  EXPECT_EQ(counters.write_zeroes, 1u);
  EXPECT_EQ(counters.bounced, 1u);
  EXPECT_EQ(counters.refused, 2u);
  EXPECT_THAT(counters.refusals, ElementsAre(0, 0, 0, 1, 0, 1));
  EXPECT_TRUE(counters.errors.empty());
}

TEST(BlkStatsTest, CountsErrorsByErrno) {
  BlkStats stats;
  EXPECT_TRUE(stats.Failed(EIO));
  EXPECT_FALSE(stats.Failed(EIO));
  EXPECT_TRUE(stats.Failed(ENOSPC));
  EXPECT_THAT(stats.Snapshot().errors,
              ElementsAre(Pair(EIO, 2), Pair(ENOSPC, 1)));
}

}  // namespace
}  // namespace cloister::devices::virtio
