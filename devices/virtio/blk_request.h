// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BLK_REQUEST_H_
#define CLOISTER_DEVICES_VIRTIO_BLK_REQUEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace cloister::devices::virtio {

// What a driver's bytes mean (virtio 1.3, section 5.2.6): pure functions of
// copies of them. Nothing here touches guest memory or the disk.

inline constexpr uint64_t kBlkSectorSize = 512;
inline constexpr size_t kBlkHeaderSize = 16;
inline constexpr size_t kBlkSegmentSize = 16;
inline constexpr size_t kBlkIdSize = 20;
inline constexpr uint32_t kBlkMaxSegments = 16;  // of a discard or zero request
inline constexpr uint32_t kBlkMaxDiscardSectors = 1u << 22;
// Where the host has to write them, a request keeps a thread busy.
inline constexpr uint32_t kBlkMaxZeroSectors = 1u << 16;

// The value of a request's last byte.
enum class BlkStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

// Why a request is answered with an error before it reaches the disk.
enum class BlkRefusal {
  kNone,
  kOffDisk,      // not all of it is on the disk
  kUnaligned,    // not whole blocks, or nothing at all
  kReadOnly,     // would change a disk that is read-only
  kMalformed,    // segments: their number, or more sectors than were offered
  kUnsupported,  // an unknown type or flag, or a type that was not offered
};
inline constexpr size_t kBlkRefusals = 6;

enum class BlkType { kRead, kWrite, kFlush, kGetId, kDiscard, kWriteZeroes };

// What a request is checked against.
struct BlkLimits {
  uint64_t size = 0;  // of the disk, in bytes
  uint32_t logical_block = kBlkSectorSize;
  bool read_only = false;
  bool discard = false;  // the driver may use these two
  bool write_zeroes = false;
};

struct BlkRequest {
  // Not kOk: nothing is to be done, this is the answer.
  BlkStatus status = BlkStatus::kOk;
  BlkType type = BlkType::kRead;
  // kRead, kWrite: bytes of the disk. Their place in the chain is readable
  // offset kBlkHeaderSize for a write, writable offset 0 for a read.
  uint64_t offset = 0;
  uint64_t length = 0;
  // kDiscard, kWriteZeroes: how many segments follow the header.
  uint32_t segments = 0;
  BlkRefusal refusal = BlkRefusal::kNone;  // kNone with kOk only

  bool operator==(const BlkRequest&) const = default;
};

// Makes sense of a request whose readable part starts with `header`. An error,
// QueueError kBadRequest, if there is no room for a header or for the status:
// there is no way to answer then.
absl::StatusOr<BlkRequest> ParseBlkRequest(
    const std::array<uint8_t, kBlkHeaderSize>& header, uint64_t readable_size,
    uint64_t writable_size, const BlkLimits& limits);
// The first part of that: whether the parts are large enough at all.
absl::Status CheckBlkSizes(uint64_t readable_size, uint64_t writable_size);

struct BlkSegment {
  uint64_t offset = 0;  // bytes of the disk
  uint64_t length = 0;
  bool unmap = false;

  bool operator==(const BlkSegment&) const = default;
};

struct BlkSegments {
  BlkStatus status = BlkStatus::kOk;  // not kOk: do none of them
  BlkRefusal refusal = BlkRefusal::kNone;
  std::vector<BlkSegment> segments;
};

// The segments of a request for kDiscard or kWriteZeroes; `bytes` holds
// kBlkSegmentSize for each. All of them are checked before any is acted on;
// empty ones are left out.
BlkSegments ParseBlkSegments(BlkType type, absl::Span<const uint8_t> bytes,
                             const BlkLimits& limits);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BLK_REQUEST_H_
