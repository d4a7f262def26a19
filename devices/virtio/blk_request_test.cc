// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_request.h"

#include <array>
#include <optional>
#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/queue_error.h"

namespace cloister::devices::virtio {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kSize = 1 << 20;  // 2048 sectors

BlkLimits Writable() { return {kSize, 512, false, true, true}; }
BlkLimits ReadOnly() { return {kSize, 512, true, false, false}; }

std::array<uint8_t, kBlkHeaderSize> Header(uint32_t type, uint64_t sector) {
  std::array<uint8_t, kBlkHeaderSize> bytes = {};
  base::StoreLe<uint32_t>(&bytes[0], type);
  base::StoreLe<uint32_t>(&bytes[4], 0xffffffff);  // reserved: ignored
  base::StoreLe<uint64_t>(&bytes[8], sector);
  return bytes;
}

BlkRequest Parse(uint32_t type, uint64_t sector, uint64_t out, uint64_t in,
                 const BlkLimits& limits = Writable()) {
  auto request = ParseBlkRequest(Header(type, sector), kBlkHeaderSize + out,
                                 in + 1, limits);
  EXPECT_OK(request);
  return request.value_or(BlkRequest());
}

BlkStatus StatusOf(uint32_t type, uint64_t sector, uint64_t out, uint64_t in,
                   const BlkLimits& limits = Writable()) {
  return Parse(type, sector, out, in, limits).status;
}

constexpr uint32_t kIn = 0, kOut = 1, kFlush = 4, kId = 8, kTrim = 11,
                   kZero = 13;

TEST(BlkRequestTest, Transfers) {
  EXPECT_EQ(Parse(kIn, 3, 0, 1024),
            (BlkRequest{BlkStatus::kOk, BlkType::kRead, 1536, 1024, 0}));
  EXPECT_EQ(Parse(kOut, 0, kSize, 0),
            (BlkRequest{BlkStatus::kOk, BlkType::kWrite, 0, kSize, 0}));
  EXPECT_EQ(Parse(kIn, 2047, 0, 512).status, BlkStatus::kOk);
  EXPECT_EQ(Parse(kIn, 0, 0, 512, ReadOnly()).status, BlkStatus::kOk);
}

TEST(BlkRequestTest, NothingOutsideTheDisk) {
  EXPECT_EQ(StatusOf(kIn, 2048, 0, 512), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kOut, 2047, 1024, 0), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kIn, 0, 0, kSize + 512), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kIn, UINT64_MAX, 0, 512), BlkStatus::kIoError);
  // Sectors whose byte offset wraps to something small.
  EXPECT_EQ(StatusOf(kOut, uint64_t{1} << 55, 512, 0), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kIn, 2047, 0, UINT64_MAX - 511 - 1), BlkStatus::kIoError);
  BlkLimits odd = Writable();
  odd.size = 1000;  // a device that ends within a sector
  EXPECT_EQ(StatusOf(kIn, 1, 0, 512, odd), BlkStatus::kIoError);
}

TEST(BlkRequestTest, OnlyWholeBlocks) {
  EXPECT_EQ(StatusOf(kIn, 0, 0, 511), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kOut, 0, 513, 0), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kIn, 0, 0, 0), BlkStatus::kIoError);
  BlkLimits large = Writable();
  large.logical_block = 4096;
  EXPECT_EQ(StatusOf(kIn, 0, 0, 512, large), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kIn, 1, 0, 4096, large), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kIn, 8, 0, 4096, large), BlkStatus::kOk);
}

TEST(BlkRequestTest, ReadOnlyDisksTakeNothing) {
  EXPECT_EQ(StatusOf(kOut, 0, 512, 0, ReadOnly()), BlkStatus::kIoError);
  BlkLimits limits = ReadOnly();
  limits.discard = limits.write_zeroes = true;
  EXPECT_EQ(StatusOf(kTrim, 0, 16, 0, limits), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kZero, 0, 16, 0, limits), BlkStatus::kIoError);
  EXPECT_EQ(StatusOf(kFlush, 0, 0, 0, limits), BlkStatus::kOk);
}

TEST(BlkRequestTest, OtherTypes) {
  EXPECT_EQ(Parse(kFlush, 77, 0, 0).type, BlkType::kFlush);
  EXPECT_EQ(Parse(kId, 0, 0, 20).type, BlkType::kGetId);
  EXPECT_EQ(Parse(kTrim, 0, 32, 0),
            (BlkRequest{BlkStatus::kOk, BlkType::kDiscard, 0, 0, 2}));
  EXPECT_EQ(Parse(kZero, 0, 256, 0),
            (BlkRequest{BlkStatus::kOk, BlkType::kWriteZeroes, 0, 0, 16}));
  for (uint32_t type : {2u, 3u, 5u, 10u, 12u, 14u, 0x80000000u, 0xffffffffu}) {
    EXPECT_EQ(StatusOf(type, 0, 0, 512), BlkStatus::kUnsupported) << type;
  }
}

TEST(BlkRequestTest, SegmentsAreWholeFewAndNegotiated) {
  for (uint32_t type : {kTrim, kZero}) {
    EXPECT_EQ(StatusOf(type, 0, 0, 0), BlkStatus::kIoError);
    EXPECT_EQ(StatusOf(type, 0, 15, 0), BlkStatus::kIoError);
    EXPECT_EQ(StatusOf(type, 0, 17, 0), BlkStatus::kIoError);
    EXPECT_EQ(StatusOf(type, 0, 17 * 16, 0), BlkStatus::kIoError);
    BlkLimits limits = Writable();
    limits.discard = limits.write_zeroes = false;
    EXPECT_EQ(StatusOf(type, 0, 16, 0, limits), BlkStatus::kUnsupported);
  }
}

TEST(BlkRequestTest, WithoutHeaderOrStatusThereIsNoAnswer) {
  auto reason = [](uint64_t readable, uint64_t writable) {
    return QueueErrorOf(
        ParseBlkRequest(Header(kIn, 0), readable, writable, Writable())
            .status());
  };
  EXPECT_EQ(reason(15, 513), QueueError::kBadRequest);
  EXPECT_EQ(reason(0, 513), QueueError::kBadRequest);
  EXPECT_EQ(reason(16, 0), QueueError::kBadRequest);
  EXPECT_EQ(reason(16, 513), std::nullopt);
}

std::vector<uint8_t> Segment(uint64_t sector, uint32_t sectors,
                             uint32_t flags) {
  std::vector<uint8_t> bytes(kBlkSegmentSize);
  base::StoreLe<uint64_t>(&bytes[0], sector);
  base::StoreLe<uint32_t>(&bytes[8], sectors);
  base::StoreLe<uint32_t>(&bytes[12], flags);
  return bytes;
}

std::vector<uint8_t> operator+(std::vector<uint8_t> a,
                               const std::vector<uint8_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(BlkSegmentsTest, AreRangesOfBytes) {
  BlkSegments parsed = ParseBlkSegments(
      BlkType::kWriteZeroes,
      Segment(1, 2, 0) + Segment(8, 0, 0) + Segment(2040, 8, 1), Writable());
  EXPECT_EQ(parsed.status, BlkStatus::kOk);
  EXPECT_THAT(parsed.segments, ElementsAre(BlkSegment{512, 1024, false},
                                           BlkSegment{2040 * 512, 4096, true}));
}

TEST(BlkRequestTest, ARefusalHasAReason) {
  EXPECT_EQ(Parse(kIn, 0, 0, 512).refusal, BlkRefusal::kNone);
  EXPECT_EQ(Parse(kIn, 2048, 0, 512).refusal, BlkRefusal::kOffDisk);
  EXPECT_EQ(Parse(kIn, 0, 0, 511).refusal, BlkRefusal::kUnaligned);
  EXPECT_EQ(Parse(kIn, 0, 0, 0).refusal, BlkRefusal::kUnaligned);
  EXPECT_EQ(Parse(kOut, 0, 512, 0, ReadOnly()).refusal, BlkRefusal::kReadOnly);
  EXPECT_EQ(Parse(kZero, 0, 15, 0).refusal, BlkRefusal::kMalformed);
  EXPECT_EQ(Parse(99, 0, 0, 512).refusal, BlkRefusal::kUnsupported);
}

TEST(BlkSegmentsTest, ARefusalHasAReason) {
  auto refusal = [](BlkType type, std::vector<uint8_t> bytes) {
    return ParseBlkSegments(type, bytes, Writable()).refusal;
  };
  EXPECT_EQ(refusal(BlkType::kDiscard, Segment(0, 1, 0)), BlkRefusal::kNone);
  EXPECT_EQ(refusal(BlkType::kDiscard, Segment(2048, 1, 0)),
            BlkRefusal::kOffDisk);
  EXPECT_EQ(refusal(BlkType::kDiscard, Segment(0, 1, 1)),
            BlkRefusal::kUnsupported);
  EXPECT_EQ(refusal(BlkType::kWriteZeroes, Segment(0, UINT32_MAX, 0)),
            BlkRefusal::kMalformed);
}

TEST(BlkSegmentsTest, OneBadOneSpoilsAll) {
  auto status = [](BlkType type, std::vector<uint8_t> bad,
                   BlkLimits limits = Writable()) {
    BlkSegments parsed = ParseBlkSegments(type, Segment(0, 8, 0) + bad, limits);
    EXPECT_THAT(parsed.segments, IsEmpty());
    return parsed.status;
  };
  for (BlkType type : {BlkType::kDiscard, BlkType::kWriteZeroes}) {
    EXPECT_EQ(status(type, Segment(2048, 1, 0)), BlkStatus::kIoError);
    EXPECT_EQ(status(type, Segment(2047, 2, 0)), BlkStatus::kIoError);
    EXPECT_EQ(status(type, Segment(UINT64_MAX, 1, 0)), BlkStatus::kIoError);
    EXPECT_EQ(status(type, Segment(0, UINT32_MAX, 0)), BlkStatus::kIoError);
    EXPECT_EQ(status(type, Segment(0, 1, 2)), BlkStatus::kUnsupported);
    EXPECT_EQ(status(type, Segment(0, 1, 0x80000001)), BlkStatus::kUnsupported);
  }
  EXPECT_EQ(status(BlkType::kDiscard, Segment(0, 1, 1)),
            BlkStatus::kUnsupported);
  BlkLimits large = Writable();
  large.size = uint64_t{1} << 50;
  EXPECT_EQ(status(BlkType::kWriteZeroes, Segment(0, kBlkMaxZeroSectors + 1, 0),
                   large),
            BlkStatus::kIoError);
  EXPECT_EQ(status(BlkType::kDiscard, Segment(0, kBlkMaxDiscardSectors + 1, 0),
                   large),
            BlkStatus::kIoError);
  large.logical_block = 4096;
  EXPECT_EQ(status(BlkType::kDiscard, Segment(1, 8, 0), large),
            BlkStatus::kIoError);
}

TEST(BlkSegmentsTest, TheLargestPass) {
  BlkLimits large = Writable();
  large.size = uint64_t{1} << 50;
  EXPECT_EQ(ParseBlkSegments(BlkType::kDiscard,
                             Segment(0, kBlkMaxDiscardSectors, 0), large)
                .status,
            BlkStatus::kOk);
  EXPECT_EQ(ParseBlkSegments(BlkType::kWriteZeroes,
                             Segment(0, kBlkMaxZeroSectors, 0), large)
                .status,
            BlkStatus::kOk);
}

}  // namespace
}  // namespace cloister::devices::virtio
