// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BLK_CONFIG_H_
#define CLOISTER_DEVICES_VIRTIO_BLK_CONFIG_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace cloister::devices::virtio {

// Feature bits of a block device (virtio 1.3, section 5.2.3).
inline constexpr int kBlkSegMax = 2;
inline constexpr int kBlkReadOnly = 5;
inline constexpr int kBlkBlockSize = 6;
inline constexpr int kBlkFlush = 9;
inline constexpr int kBlkTopology = 10;
inline constexpr int kBlkConfigWce = 11;
inline constexpr int kBlkMultiQueue = 12;
inline constexpr int kBlkDiscard = 13;
inline constexpr int kBlkWriteZeroes = 14;

// What a block device tells its driver about itself.
struct BlkConfig {
  static constexpr size_t kSize = 60;
  // Where the driver finds, and sets, whether the cache is a write-back one.
  static constexpr uint64_t kWritebackOffset = 32;

  uint64_t size = 0;  // bytes
  bool read_only = false;
  uint32_t logical_block = 512;
  uint32_t physical_block = 512;
  uint16_t queues = 1;
  uint16_t queue_size = 256;
  bool writeback = true;

  uint64_t Features() const;
  // The configuration space, struct virtio_blk_config (section 5.2.4).
  std::array<uint8_t, kSize> Bytes() const;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BLK_CONFIG_H_
