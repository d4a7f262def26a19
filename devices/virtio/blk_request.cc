// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_request.h"

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/queue_error.h"

namespace cloister::devices::virtio {
namespace {

// virtio_blk_req.type.
constexpr uint32_t kIn = 0;
constexpr uint32_t kOut = 1;
constexpr uint32_t kFlush = 4;
constexpr uint32_t kGetId = 8;
constexpr uint32_t kDiscard = 11;
constexpr uint32_t kWriteZeroes = 13;

// virtio_blk_discard_write_zeroes.flags.
constexpr uint32_t kUnmap = 1;

BlkStatus StatusOf(BlkRefusal refusal) {
  if (refusal == BlkRefusal::kNone) return BlkStatus::kOk;
  return refusal == BlkRefusal::kUnsupported ? BlkStatus::kUnsupported
                                             : BlkStatus::kIoError;
}

// Whether sectors are all on the disk, and whole blocks of it.
BlkRefusal CheckRange(uint64_t sector, uint64_t length,
                      const BlkLimits& limits) {
  if (sector > limits.size / kBlkSectorSize) return BlkRefusal::kOffDisk;
  const uint64_t offset = sector * kBlkSectorSize;
  if (length > limits.size - offset) return BlkRefusal::kOffDisk;
  if (!base::IsAligned(offset, limits.logical_block) ||
      !base::IsAligned(length, limits.logical_block)) {
    return BlkRefusal::kUnaligned;
  }
  return BlkRefusal::kNone;
}

BlkRequest Answer(BlkType type, BlkRefusal refusal = BlkRefusal::kNone) {
  BlkRequest request;
  request.type = type;
  request.status = StatusOf(refusal);
  request.refusal = refusal;
  return request;
}

BlkSegments RefuseSegments(BlkRefusal refusal) {
  return {StatusOf(refusal), refusal, {}};
}

BlkRequest ParseTransfer(BlkType type, uint64_t sector, uint64_t length,
                         const BlkLimits& limits) {
  if (type == BlkType::kWrite && limits.read_only) {
    return Answer(type, BlkRefusal::kReadOnly);
  }
  BlkRefusal refusal = CheckRange(sector, length, limits);
  if (refusal == BlkRefusal::kNone && length == 0) {
    refusal = BlkRefusal::kUnaligned;
  }
  if (refusal != BlkRefusal::kNone) return Answer(type, refusal);
  BlkRequest request;
  request.type = type;
  request.offset = sector * kBlkSectorSize;
  request.length = length;
  return request;
}

BlkRequest ParseRanges(BlkType type, bool offered, uint64_t size,
                       const BlkLimits& limits) {
  if (!offered) return Answer(type, BlkRefusal::kUnsupported);
  if (limits.read_only) return Answer(type, BlkRefusal::kReadOnly);
  if (size == 0 || size % kBlkSegmentSize != 0 ||
      size / kBlkSegmentSize > kBlkMaxSegments) {
    return Answer(type, BlkRefusal::kMalformed);
  }
  BlkRequest request;
  request.type = type;
  request.segments = static_cast<uint32_t>(size / kBlkSegmentSize);
  return request;
}

}  // namespace

absl::Status CheckBlkSizes(uint64_t readable_size, uint64_t writable_size) {
  if (readable_size < kBlkHeaderSize) {
    return MakeQueueError(
        QueueError::kBadRequest,
        absl::StrCat("a block request's header of ", readable_size, " bytes"));
  }
  if (writable_size == 0) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a block request without room for its status");
  }
  return absl::OkStatus();
}

absl::StatusOr<BlkRequest> ParseBlkRequest(
    const std::array<uint8_t, kBlkHeaderSize>& header, uint64_t readable_size,
    uint64_t writable_size, const BlkLimits& limits) {
  RETURN_IF_ERROR(CheckBlkSizes(readable_size, writable_size));
  const uint32_t type = base::LoadLe<uint32_t>(header.data());
  const uint64_t sector = base::LoadLe<uint64_t>(header.data() + 8);
  const uint64_t out = readable_size - kBlkHeaderSize;
  const uint64_t in = writable_size - 1;
  switch (type) {
    case kIn:
      return ParseTransfer(BlkType::kRead, sector, in, limits);
    case kOut:
      return ParseTransfer(BlkType::kWrite, sector, out, limits);
    case kFlush:
      return Answer(BlkType::kFlush);
    case kGetId:
      return Answer(BlkType::kGetId);
    case kDiscard:
      return ParseRanges(BlkType::kDiscard, limits.discard, out, limits);
    case kWriteZeroes:
      return ParseRanges(BlkType::kWriteZeroes, limits.write_zeroes, out,
                         limits);
    default:
      return Answer(BlkType::kRead, BlkRefusal::kUnsupported);
  }
}

BlkSegments ParseBlkSegments(BlkType type, absl::Span<const uint8_t> bytes,
                             const BlkLimits& limits) {
  const bool zeroes = type == BlkType::kWriteZeroes;
  const uint32_t most = zeroes ? kBlkMaxZeroSectors : kBlkMaxDiscardSectors;
  BlkSegments parsed;
  for (; bytes.size() >= kBlkSegmentSize;
       bytes.remove_prefix(kBlkSegmentSize)) {
    const uint64_t sector = base::LoadLe<uint64_t>(bytes.data());
    const uint32_t sectors = base::LoadLe<uint32_t>(bytes.data() + 8);
    const uint32_t flags = base::LoadLe<uint32_t>(bytes.data() + 12);
    // Unknown flags, and unmap on a discard, are UNSUPP (virtio 1.3, 5.2.6.2).
    if ((flags & ~kUnmap) != 0 || (flags != 0 && !zeroes)) {
      return RefuseSegments(BlkRefusal::kUnsupported);
    }
    if (sectors > most) return RefuseSegments(BlkRefusal::kMalformed);
    const uint64_t length = sectors * kBlkSectorSize;
    const BlkRefusal refusal = CheckRange(sector, length, limits);
    if (refusal != BlkRefusal::kNone) return RefuseSegments(refusal);
    if (sectors == 0) continue;
    parsed.segments.push_back(
        {sector * kBlkSectorSize, length, flags == kUnmap});
  }
  return parsed;
}

}  // namespace cloister::devices::virtio
