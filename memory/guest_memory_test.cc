// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {

class GuestMemoryTestPeer {
 public:
  static HostAccess Access() { return HostAccess(); }
};

namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

MemoryRegion Region(uint64_t start, uint64_t size) {
  auto mapping = HostMapping::CreateMemfd("ram", size, {});
  EXPECT_OK(mapping);
  auto region = MemoryRegion::Create(GuestAddress(start), std::move(*mapping));
  EXPECT_OK(region);
  return *std::move(region);
}

// [0x10000, 0x14000) and [0x14000, 0x18000) touch; [0x20000, 0x24000) is apart.
GuestMemory Memory() {
  std::vector<MemoryRegion> regions;
  regions.push_back(Region(0x20000, 0x4000));
  regions.push_back(Region(0x10000, 0x4000));
  regions.push_back(Region(0x14000, 0x4000));
  auto memory = GuestMemory::Create(std::move(regions));
  EXPECT_OK(memory);
  return *std::move(memory);
}

std::vector<uint8_t> Read(const GuestMemory& memory, uint64_t from,
                          size_t size) {
  std::vector<uint8_t> bytes(size, 0xcc);
  EXPECT_OK(memory.Read(GuestAddress(from), absl::MakeSpan(bytes)));
  return bytes;
}

std::vector<uint8_t> Pattern(size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<uint8_t>(1 + i % 251);
  return bytes;
}

TEST(GuestMemoryTest, RegionsAreOrderedAndDisjoint) {
  GuestMemory memory = Memory();
  ASSERT_THAT(memory.regions(), SizeIs(3));
  EXPECT_EQ(memory.regions()[0].range(), Range(0x10000, 0x4000));
  EXPECT_EQ(memory.regions()[2].range(), Range(0x20000, 0x4000));
  EXPECT_EQ(memory.size(), 0xc000u);

  std::vector<MemoryRegion> overlapping;
  overlapping.push_back(Region(0x10000, 0x2000));
  overlapping.push_back(Region(0x11000, 0x1000));
  EXPECT_THAT(GuestMemory::Create(std::move(overlapping)),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("[0x10000, 0x11fff] and [0x11000, "
                                       "0x11fff] overlap")));
  ASSERT_OK_AND_ASSIGN(HostMapping mapping,
                       HostMapping::CreateMemfd("ram", 0x2000, {}));
  EXPECT_FALSE(
      MemoryRegion::Create(GuestAddress(0x800), std::move(mapping)).ok());
  ASSERT_OK_AND_ASSIGN(mapping, HostMapping::CreateMemfd("ram", 0x2000, {}));
  EXPECT_FALSE(MemoryRegion::Create(GuestAddress(uint64_t{0} - 0x1000),
                                    std::move(mapping))
                   .ok());
}

TEST(GuestMemoryTest, MemoryAtTheTopOfTheAddressSpace) {
  std::vector<MemoryRegion> regions;
  regions.push_back(Region(uint64_t{0} - 0x1000, 0x1000));
  ASSERT_OK_AND_ASSIGN(GuestMemory memory,
                       GuestMemory::Create(std::move(regions)));
  EXPECT_TRUE(memory.Contains(Range(UINT64_MAX, 1)));
  EXPECT_OK(memory.Store<uint8_t>(GuestAddress(UINT64_MAX), 5,
                                  std::memory_order_relaxed));
  std::vector<uint8_t> two(2);
  EXPECT_FALSE(memory.Read(GuestAddress(UINT64_MAX), absl::MakeSpan(two)).ok());
}

TEST(GuestMemoryTest, Contains) {
  GuestMemory memory = Memory();
  EXPECT_TRUE(memory.Contains(Range(0x10000, 0x8000)));
  EXPECT_TRUE(memory.Contains(Range(0x13fff, 2)));
  EXPECT_FALSE(memory.Contains(Range(0xffff, 2)));
  EXPECT_FALSE(memory.Contains(Range(0x17fff, 2)));
  EXPECT_FALSE(memory.Contains(Range(0x10000, 0x14000)));
  EXPECT_FALSE(memory.Contains(Range(0, UINT64_MAX)));
}

TEST(GuestMemoryTest, FreshMemoryIsZero) {
  GuestMemory memory = Memory();
  EXPECT_THAT(Read(memory, 0x10000, 0x8000), Each(0));
}

TEST(GuestMemoryTest, WritesAndReadsAcrossRegionsThatTouch) {
  GuestMemory memory = Memory();
  std::vector<uint8_t> bytes = Pattern(0x2001);
  ASSERT_OK(memory.Write(GuestAddress(0x13003), bytes));
  EXPECT_EQ(Read(memory, 0x13003, bytes.size()), bytes);
  EXPECT_THAT(Read(memory, 0x13002, 1), ElementsAre(0));
  EXPECT_THAT(Read(memory, 0x13003 + bytes.size(), 1), ElementsAre(0));
}

TEST(GuestMemoryTest, AnAccessThatLeavesMemoryDoesNothing) {
  GuestMemory memory = Memory();
  std::vector<uint8_t> bytes = Pattern(0x20);
  // Past an end, before a start, across a hole, wrapping.
  for (uint64_t at : {0x17ff0ul, 0xfff0ul, 0x23ff0ul, UINT64_MAX - 8}) {
    EXPECT_THAT(memory.Write(GuestAddress(at), bytes),
                base::StatusIs(absl::StatusCode::kOutOfRange,
                               HasSubstr("cannot write 32 bytes at 0x")));
    std::vector<uint8_t> to(0x20, 0xaa);
    EXPECT_THAT(memory.Read(GuestAddress(at), absl::MakeSpan(to)),
                base::StatusIs(absl::StatusCode::kOutOfRange));
    EXPECT_THAT(to, Each(0xaa));
  }
  EXPECT_FALSE(memory.Fill(Range(0x10000, 0x14000), 9).ok());
  EXPECT_THAT(Read(memory, 0x10000, 0x8000), Each(0));
  EXPECT_THAT(Read(memory, 0x20000, 0x4000), Each(0));
  // Nothing, anywhere, is fine.
  EXPECT_OK(memory.Write(GuestAddress(5), {}));
}

TEST(GuestMemoryTest, Fill) {
  GuestMemory memory = Memory();
  ASSERT_OK(memory.Fill(Range(0x13fff, 0x1002), 0x5a));
  EXPECT_THAT(Read(memory, 0x13ffe, 1), ElementsAre(0));
  EXPECT_THAT(Read(memory, 0x13fff, 0x1002), Each(0x5a));
  EXPECT_THAT(Read(memory, 0x15001, 1), ElementsAre(0));
}

TEST(GuestMemoryTest, LoadAndStoreOfEachSize) {
  GuestMemory memory = Memory();
  const auto relaxed = std::memory_order_relaxed;
  const GuestAddress at(0x10010);
  ASSERT_OK(memory.Store<uint64_t>(at, 0x1122334455667788, relaxed));
  EXPECT_THAT(memory.Load<uint64_t>(at, std::memory_order_acquire),
              base::IsOkAndHolds(0x1122334455667788u));
  EXPECT_THAT(memory.Load<uint32_t>(at, std::memory_order_seq_cst),
              base::IsOkAndHolds(0x55667788u));
  EXPECT_THAT(memory.Load<uint16_t>(GuestAddress(0x10012), relaxed),
              base::IsOkAndHolds(0x5566u));
  EXPECT_THAT(memory.Load<uint8_t>(GuestAddress(0x10017), relaxed),
              base::IsOkAndHolds(0x11u));
  ASSERT_OK(memory.Store<uint32_t>(at, 1, std::memory_order_release));
  ASSERT_OK(memory.Store<uint16_t>(GuestAddress(0x10014), 2,
                                   std::memory_order_seq_cst));
  ASSERT_OK(memory.Store<uint8_t>(GuestAddress(0x10017), 3, relaxed));
  EXPECT_THAT(memory.Load<uint64_t>(at, relaxed),
              base::IsOkAndHolds(0x0322000200000001u));
}

TEST(GuestMemoryTest, AtomicAccessesMustBeAlignedAndInside) {
  GuestMemory memory = Memory();
  const auto order = std::memory_order_seq_cst;
  EXPECT_THAT(memory.Load<uint32_t>(GuestAddress(0x10002), order),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("4 bytes at 0x10002 is not aligned")));
  EXPECT_FALSE(memory.Store<uint64_t>(GuestAddress(0x13ffc), 1, order).ok());
  EXPECT_THAT(memory.Load<uint8_t>(GuestAddress(0x18000), order),
              base::StatusIs(absl::StatusCode::kOutOfRange,
                             HasSubstr("not guest memory")));
  EXPECT_FALSE(memory.Store<uint64_t>(GuestAddress(0x18000), 1, order).ok());
}

base::UniqueFd File(const std::vector<uint8_t>& bytes) {
  base::UniqueFd fd(::memfd_create("file", MFD_CLOEXEC));
  EXPECT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  return fd;
}

TEST(GuestMemoryTest, CopyFromFd) {
  GuestMemory memory = Memory();
  std::vector<uint8_t> bytes = Pattern(0x3000);
  base::UniqueFd file = File(bytes);
  ASSERT_OK(memory.CopyFromFd(Range(0x13000, 0x2000), file.get(), 0x801));
  EXPECT_EQ(
      Read(memory, 0x13000, 0x2000),
      std::vector<uint8_t>(bytes.begin() + 0x801, bytes.begin() + 0x2801));
  EXPECT_THAT(
      memory.CopyFromFd(Range(0x20000, 0x2000), file.get(), 0x2000),
      base::StatusIs(absl::StatusCode::kOutOfRange,
                     HasSubstr("ends after 4096 of 8192 bytes from offset")));
  EXPECT_FALSE(memory.CopyFromFd(Range(0x17000, 0x2000), file.get(), 0).ok());
  EXPECT_FALSE(memory.CopyFromFd(Range(0x10000, 1), -1, 0).ok());
  EXPECT_THAT(memory.CopyFromFd(Range(0x10000, 1), file.get(), UINT64_MAX),
              base::StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(GuestMemoryTest, DiscardAndBackedRanges) {
  GuestMemory memory = Memory();
  EXPECT_THAT(memory.BackedRanges(Range(0x10000, 0x8000)),
              base::IsOkAndHolds(IsEmpty()));
  ASSERT_OK(memory.Fill(Range(0x12000, 0x4000), 1));
  // One range, though two files.
  EXPECT_THAT(memory.BackedRanges(Range(0x10000, 0x8000)),
              base::IsOkAndHolds(ElementsAre(Range(0x12000, 0x4000))));
  ASSERT_OK(memory.Discard(Range(0x13000, 0x2000)));
  EXPECT_THAT(memory.BackedRanges(Range(0x10000, 0x8000)),
              base::IsOkAndHolds(
                  ElementsAre(Range(0x12000, 0x1000), Range(0x15000, 0x1000))));
  EXPECT_THAT(memory.BackedBytes(Range(0x10000, 0x8000)),
              base::IsOkAndHolds(0x2000u));
  EXPECT_THAT(Read(memory, 0x13000, 0x2000), Each(0));
  EXPECT_THAT(Read(memory, 0x15000, 0x1000), Each(1));
  EXPECT_FALSE(memory.Discard(Range(0x10001, 0x1000)).ok());
  EXPECT_FALSE(memory.Discard(Range(0x17000, 0x2000)).ok());
  EXPECT_FALSE(memory.BackedRanges(Range(0x17000, 0x2000)).ok());
}

TEST(GuestMemoryTest, IovecsCoverARange) {
  GuestMemory memory = Memory();
  std::vector<struct iovec> iovecs;
  const HostAccess access = GuestMemoryTestPeer::Access();
  ASSERT_OK(memory.AppendIovecs(access, GuestAddress(0x13f00), 0x300, &iovecs));
  ASSERT_THAT(iovecs, SizeIs(2));
  EXPECT_EQ(iovecs[0].iov_len, 0x100u);
  EXPECT_EQ(iovecs[1].iov_len, 0x200u);
  std::vector<uint8_t> bytes = Pattern(0x300);
  base::UniqueFd file = File(bytes);
  ASSERT_EQ(::preadv(file.get(), iovecs.data(), 2, 0), 0x300);
  EXPECT_EQ(Read(memory, 0x13f00, 0x300), bytes);
  EXPECT_FALSE(
      memory.AppendIovecs(access, GuestAddress(0x17f00), 0x300, &iovecs).ok());
  EXPECT_THAT(iovecs, SizeIs(2));
}

// The release and acquire orders of a ring: what was written before the index
// is there once the index is. Clean under ThreadSanitizer.
TEST(GuestMemoryTest, ReleasePublishesToAcquire) {
  GuestMemory memory = Memory();
  constexpr uint32_t kMessages = 20000;
  constexpr uint64_t kIndex = 0x10000, kRing = 0x11000, kSlots = 64;
  const GuestAddress index(kIndex), taken(kIndex + 8);
  std::thread producer([&] {
    for (uint32_t i = 1; i <= kMessages; ++i) {
      while (i - *memory.Load<uint32_t>(taken, std::memory_order_acquire) >
             kSlots) {
        std::this_thread::yield();
      }
      std::vector<uint8_t> message(24, static_cast<uint8_t>(i));
      ASSERT_OK(memory.Write(GuestAddress(kRing + i % kSlots * 24), message));
      ASSERT_OK(memory.Store<uint32_t>(index, i, std::memory_order_release));
    }
  });
  uint32_t wrong = 0;
  for (uint32_t i = 1; i <= kMessages; ++i) {
    while (*memory.Load<uint32_t>(index, std::memory_order_acquire) < i) {
      std::this_thread::yield();
    }
    std::vector<uint8_t> message = Read(memory, kRing + i % kSlots * 24, 24);
    wrong += std::count(message.begin(), message.end(),
                        static_cast<uint8_t>(i)) != 24;
    ASSERT_OK(memory.Store<uint32_t>(taken, i, std::memory_order_release));
  }
  producer.join();
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace cloister::memory
