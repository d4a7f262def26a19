// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_config.h"

#include <bit>

#include "cloister/base/bytes.h"
#include "cloister/devices/virtio/blk_request.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t Bit(int feature) { return uint64_t{1} << feature; }

}  // namespace

uint64_t BlkConfig::Features() const {
  uint64_t features = Bit(kBlkSegMax) | Bit(kBlkBlockSize) | Bit(kBlkFlush) |
                      Bit(kBlkTopology) | Bit(kBlkConfigWce);
  features |=
      read_only ? Bit(kBlkReadOnly) : Bit(kBlkDiscard) | Bit(kBlkWriteZeroes);
  if (queues > 1) features |= Bit(kBlkMultiQueue);
  return features;
}

std::array<uint8_t, BlkConfig::kSize> BlkConfig::Bytes() const {
  const uint32_t block_sectors = logical_block / kBlkSectorSize;
  const uint32_t blocks = physical_block / logical_block;
  std::array<uint8_t, kSize> bytes = {};
  base::StoreLe<uint64_t>(&bytes[0], size / kBlkSectorSize);  // capacity
  // Room in the ring for the header and the status.
  base::StoreLe<uint32_t>(&bytes[12], queue_size > 2 ? queue_size - 2 : 1);
  base::StoreLe<uint32_t>(&bytes[20], logical_block);  // blk_size
  bytes[24] = std::countr_zero(blocks);                // physical_block_exp
  base::StoreLe<uint16_t>(&bytes[26], blocks);         // min_io_size
  bytes[kWritebackOffset] = writeback;
  base::StoreLe<uint16_t>(&bytes[34], queues);
  if (read_only) return bytes;
  base::StoreLe<uint32_t>(&bytes[36], kBlkMaxDiscardSectors);
  base::StoreLe<uint32_t>(&bytes[40], kBlkMaxSegments);
  base::StoreLe<uint32_t>(&bytes[44], block_sectors);  // discard alignment
  base::StoreLe<uint32_t>(&bytes[48], kBlkMaxZeroSectors);
  base::StoreLe<uint32_t>(&bytes[52], kBlkMaxSegments);
  bytes[56] = 1;  // write_zeroes_may_unmap
  return bytes;
}

}  // namespace cloister::devices::virtio
