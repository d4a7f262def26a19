// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_config.h"

#include "cloister/base/bytes.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

template <typename T>
T At(const BlkConfig& config, size_t offset) {
  auto bytes = config.Bytes();
  return base::LoadLe<T>(&bytes[offset]);
}

bool Offers(const BlkConfig& config, int feature) {
  return (config.Features() >> feature & 1) != 0;
}

TEST(BlkConfigTest, SaysWhatTheDiskIs) {
  BlkConfig config;
  config.size = uint64_t{3} << 40;
  config.logical_block = 512;
  config.physical_block = 4096;
  config.queues = 4;
  config.queue_size = 128;
  EXPECT_EQ(At<uint64_t>(config, 0), uint64_t{3} << 31);  // capacity
  EXPECT_EQ(At<uint32_t>(config, 12), 126u);              // seg_max
  EXPECT_EQ(At<uint32_t>(config, 20), 512u);              // blk_size
  EXPECT_EQ(At<uint8_t>(config, 24), 3u);                 // 8 blocks
  EXPECT_EQ(At<uint16_t>(config, 26), 8u);                // min_io_size
  EXPECT_EQ(At<uint8_t>(config, 32), 1u);                 // writeback
  EXPECT_EQ(At<uint16_t>(config, 34), 4u);                // num_queues
  EXPECT_EQ(At<uint32_t>(config, 36), 1u << 22);          // max_discard_sectors
  EXPECT_EQ(At<uint32_t>(config, 40), 16u);               // max_discard_seg
  EXPECT_EQ(At<uint32_t>(config, 44), 1u);        // discard_sector_alignment
  EXPECT_EQ(At<uint32_t>(config, 48), 1u << 16);  // max_write_zeroes_sectors
  EXPECT_EQ(At<uint32_t>(config, 52), 16u);       // max_write_zeroes_seg
  EXPECT_EQ(At<uint8_t>(config, 56), 1u);         // write_zeroes_may_unmap
  config.writeback = false;
  EXPECT_EQ(At<uint8_t>(config, 32), 0u);
}

TEST(BlkConfigTest, AlwaysHasRoomForOneSegment) {
  BlkConfig config;
  config.queue_size = 2;
  EXPECT_EQ(At<uint32_t>(config, 12), 1u);  // seg_max
}

TEST(BlkConfigTest, OffersWhatADiskCan) {
  BlkConfig config;
  for (int feature : {kBlkSegMax, kBlkBlockSize, kBlkFlush, kBlkTopology,
                      kBlkConfigWce, kBlkDiscard, kBlkWriteZeroes}) {
    EXPECT_TRUE(Offers(config, feature)) << feature;
  }
  EXPECT_FALSE(Offers(config, kBlkReadOnly));
  EXPECT_FALSE(Offers(config, kBlkMultiQueue));
  config.queues = 2;
  EXPECT_TRUE(Offers(config, kBlkMultiQueue));
}

TEST(BlkConfigTest, AReadOnlyDiskTakesNothingAway) {
  BlkConfig config;
  config.read_only = true;
  EXPECT_TRUE(Offers(config, kBlkReadOnly));
  EXPECT_FALSE(Offers(config, kBlkDiscard));
  EXPECT_FALSE(Offers(config, kBlkWriteZeroes));
  EXPECT_EQ(At<uint32_t>(config, 36), 0u);
  EXPECT_EQ(At<uint32_t>(config, 48), 0u);
}

}  // namespace
}  // namespace cloister::devices::virtio
