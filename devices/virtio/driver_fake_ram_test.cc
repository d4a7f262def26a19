// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/driver_fake_ram.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using memory::GuestAddress;
using memory::kPageSize;
using memory::PageState;

constexpr uint64_t kStart = 0x100000;
constexpr uint64_t kSize = 4 * kPageSize;

// Where the device finds `page` of the memory.
volatile uint8_t* HostPage(FakeRam& ram, uint64_t page) {
  auto lease = ram.view().Acquire(GuestAddress(kStart + page * kPageSize), 1);
  EXPECT_TRUE(lease.ok()) << lease.status();
  std::vector<struct iovec> iovecs;
  EXPECT_OK(lease->GatherIovecs(0, lease->range().size(), &iovecs));
  return static_cast<uint8_t*>(iovecs.at(0).iov_base);
}

class FakeRamDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(FakeRamDeathTest, OneByteBeyondTheMemoryIsFatal) {
  FakeRam ram(kSize, kStart);
  volatile uint8_t* last = HostPage(ram, 3);
  last[kPageSize - 1] = 1;
  EXPECT_DEATH({ (void)last[kPageSize]; }, "");
  EXPECT_DEATH({ last[kPageSize] = 1; }, "");
}

TEST_F(FakeRamDeathTest, OneByteBeforeTheMemoryIsFatal) {
  FakeRam ram(kSize, kStart);
  volatile uint8_t* first = HostPage(ram, 0);
  first[0] = 1;
  EXPECT_DEATH({ (void)first[-1]; }, "");
  EXPECT_DEATH({ first[-1] = 1; }, "");
}

TEST_F(FakeRamDeathTest, WhatIsNotSharedIsFatalToTheDevice) {
  FakeRam ram(kSize, kStart);
  volatile uint8_t* page = HostPage(ram, 1);
  for (PageState state :
       {PageState::kPrivate, PageState::kAliased, PageState::kNotRam}) {
    ram.SetState(GuestAddress(kStart + kPageSize), 1, state);
    EXPECT_DEATH({ (void)page[0]; }, "");
    EXPECT_DEATH({ page[kPageSize - 1] = 1; }, "");
    page[-1] = 1;  // the neighbours are as they were
    page[kPageSize] = 1;
    ram.SetState(GuestAddress(kStart + kPageSize), 1, PageState::kShared);
    page[0] = 1;
  }
}

TEST(FakeRamTest, SystemCallsCannotReachWhatIsNotShared) {
  FakeRam ram(kSize, kStart);
  volatile uint8_t* page = HostPage(ram, 1);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ram.SetState(GuestAddress(kStart + kPageSize), 1, PageState::kPrivate);
  EXPECT_EQ(::write(ends[1], const_cast<uint8_t*>(page), 1), -1);
  EXPECT_EQ(errno, EFAULT);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(FakeRamTest, TheGuestReachesAllOfItsMemory) {
  FakeRam ram(kSize, kStart);
  const GuestAddress at(kStart + 2 * kPageSize);
  ram.SetState(at, 1, PageState::kPrivate);
  ram.Write(at, "mine");
  EXPECT_EQ(ram.String(at, 4), "mine");
  ram.SetState(at, 1, PageState::kShared);
  auto lease = ram.view().Acquire(at, 4);
  ASSERT_TRUE(lease.ok());
  std::string seen(4, ' ');
  ASSERT_TRUE(
      lease->Read(0, {reinterpret_cast<uint8_t*>(seen.data()), 4}).ok());
  EXPECT_EQ(seen, "mine");
}

TEST(FakeRamTest, ALeasedPageStaysWithinReach) {
  FakeRam ram(kSize, kStart);
  const GuestAddress at(kStart + kPageSize);
  auto lease = ram.view().Acquire(at, 4);
  ASSERT_TRUE(lease.ok());
  ram.SetState(at, 1, PageState::kPrivate);
  EXPECT_TRUE(
      lease->Write(0, {reinterpret_cast<const uint8_t*>("late"), 4}).ok());
  EXPECT_FALSE(ram.view().Acquire(at, 4).ok());
}

}  // namespace
}  // namespace cloister::devices::virtio
