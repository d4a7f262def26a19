// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/guest_memfd.h"

#include <sys/mman.h>

#include <cerrno>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/fault_kvm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

constexpr uint64_t kSize = 4 * 4096;

// An ordinary memfd answers mmap and fallocate as a guest_memfd does.
GuestMemfd Make(Syscalls& syscalls, GuestMemfdFlags flags) {
  base::UniqueFd fd(memfd_create("guest_memfd_test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), kSize), 0);
  return GuestMemfd(syscalls, std::move(fd), kSize, flags);
}

TEST(GuestMemfd, MapIsSharedAndWhole) {
  GuestMemfd file = Make(RealSyscalls(), {true, true});
  ASSERT_OK_AND_ASSIGN(HostMapping one, file.Map());
  ASSERT_OK_AND_ASSIGN(HostMapping two, file.Map());
  EXPECT_EQ(one.size(), kSize);
  one.data()[kSize - 1] = 7;
  EXPECT_EQ(two.data()[kSize - 1], 7);
}

TEST(GuestMemfd, MapNeedsTheFlag) {
  GuestMemfd file = Make(RealSyscalls(), {});
  EXPECT_THAT(file.Map(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                   HasSubstr("mmap flag")));
}

TEST(GuestMemfd, MapReportsErrno) {
  FakeKvm fake;
  GuestMemfd file = Make(fake, {true, false});
  fake.FailNextMmap(ENOMEM);
  EXPECT_THAT(file.Map(), StatusIs(absl::StatusCode::kResourceExhausted,
                                   HasSubstr("16384 bytes")));
}

TEST(GuestMemfd, PunchHoleZeroesOnlyItsPages) {
  GuestMemfd file = Make(RealSyscalls(), {true, true});
  ASSERT_OK_AND_ASSIGN(HostMapping map, file.Map());
  for (uint64_t i = 0; i < kSize; i += 4096) map.data()[i] = 1;
  ASSERT_OK(file.PunchHole(4096, 8192));
  EXPECT_EQ(map.data()[0], 1);
  EXPECT_EQ(map.data()[4096], 0);
  EXPECT_EQ(map.data()[8192], 0);
  EXPECT_EQ(map.data()[3 * 4096], 1);
}

TEST(GuestMemfd, AllocateKeepsContent) {
  GuestMemfd file = Make(RealSyscalls(), {true, true});
  ASSERT_OK_AND_ASSIGN(HostMapping map, file.Map());
  map.data()[0] = 9;
  ASSERT_OK(file.Allocate(0, kSize));
  EXPECT_EQ(map.data()[0], 9);
}

TEST(GuestMemfd, RangesMustBeWholePagesInside) {
  FakeKvm fake;
  FaultKvm counter(fake);
  GuestMemfd file = Make(counter, {true, true});
  struct {
    uint64_t offset, length;
  } bad[] = {{1, 4096},      {0, 1},           {0, 0},
             {4096, kSize},  {kSize, 4096},    {kSize + 4096, 4096},
             {0, ~0xfffull}, {~0xfffull, 4096}};
  for (auto [offset, length] : bad) {
    EXPECT_THAT(file.PunchHole(offset, length),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << offset << " " << length;
    EXPECT_THAT(file.Allocate(offset, length),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_EQ(counter.calls(), 0u);
}

TEST(GuestMemfd, FallocateRetriesEintrAndReportsTheRest) {
  FakeKvm fake;
  GuestMemfd file = Make(fake, {true, true});
  fake.FailNextFallocate(EINTR);
  fake.FailNextFallocate(EINTR);
  EXPECT_OK(file.PunchHole(0, 4096));
  fake.FailNextFallocate(ENOMEM);
  EXPECT_THAT(file.PunchHole(4096, 4096),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("PUNCH_HOLE, 0x1000+0x1000 of 0x4000")));
}

}  // namespace
}  // namespace cloister::kvm
