// SPDX-License-Identifier: Apache-2.0
//
// A region's guest_memfd on this host's /dev/kvm and, as a lab test, on one
// with private memory: with files that can be mapped, and as on older kernels.
#include "cloister/confidential/private_region.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/memory_region.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vcpu_fd.h"
#include "cloister/kvm/vm.h"
#include "cloister/kvm/vm_type.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using ::cloister::base::StatusIs;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kStart = uint64_t{4} << 30;
// More pages than one look at a mapping covers.
constexpr uint64_t kPages = 10000;

// Pages [first, first + count) of the region.
GuestRange Pages(uint64_t first, uint64_t count) {
  return *GuestRange::Create(GuestAddress(kStart + first * kPageSize),
                             count * kPageSize);
}

class PrivateRegionTest : public ::testing::TestWithParam<bool> {
 protected:
  PrivateRegionTest() : kvm_(kvm::RealSyscalls()) {}

  void SetUp() override {
    const bool mappable = GetParam();
    if (!mappable) kvm_.HideCapability(kvm::Capability::kGuestMemfdFlags);
    auto system = kvm::System::Open(kvm_);
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    ASSERT_OK_AND_ASSIGN(kvm::Vm vm, system->CreateVm(kvm::VmType::kDefault));
    vm_.emplace(std::move(vm));
    if (vm_->CheckExtension(kvm::Capability::kGuestMemfd) <= 0) {
      GTEST_SKIP() << "this host has no guest_memfd";
    }
    if (mappable && !vm_->SupportedGuestMemfdFlags().mmap) {
      GTEST_SKIP() << "guest_memfd cannot be mapped here";
    }
    ASSERT_OK_AND_ASSIGN(region_,
                         PrivateRegion::Create(*vm_, Pages(0, kPages)));
    ASSERT_EQ(region_->mappable(), mappable);
    mappable ? SetUpVcpu() : CheckCachestat();
  }

  // mincore does not count what no fault has filled, so pages come from a
  // vCPU's faults.
  void SetUpVcpu() {
    if (vm_->CheckExtension(kvm::Capability::kPreFaultMemory) <= 0) {
      GTEST_SKIP() << "this KVM cannot pre-fault memory";
    }
    kvm::MemoryRegion slot;
    slot.slot = kvm::Slot(0);
    slot.gpa = region_->range().start();
    slot.size = region_->range().size();
    slot.host = region_->reserved_host();
    slot.guest_memfd = kvm::GuestMemfdBinding{.fd = region_->fd(), .offset = 0};
    ASSERT_OK(vm_->SetMemoryRegion(slot));
    ASSERT_OK_AND_ASSIGN(kvm::VcpuFd vcpu, vm_->CreateVcpu(0));
    vcpu_.emplace(std::move(vcpu));
  }

  void CheckCachestat() {
    std::array<uint64_t, 2> range = {0, kPageSize};
    std::array<uint64_t, 5> result = {};
    if (::syscall(451, region_->fd(), range.data(), result.data(), 0) < 0) {
      GTEST_SKIP() << "this kernel has no cachestat";
    }
  }

  // As a guest's touch would.
  void Back(uint64_t first, uint64_t count) {
    if (GetParam()) {
      ASSERT_OK_AND_ASSIGN(uint64_t done,
                           vcpu_->PreFaultMemory(Pages(first, count)));
      ASSERT_EQ(done, count * kPageSize);
      return;
    }
    ASSERT_EQ(::fallocate(region_->fd(), FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(first * kPageSize),
                          static_cast<off_t>(count * kPageSize)),
              0)
        << errno;
  }

  std::vector<GuestRange> Backed(const GuestRange& part) {
    std::vector<GuestRange> found;
    EXPECT_OK(region_->ForEachBacked(
        part, [&](const GuestRange& range) { found.push_back(range); }));
    return found;
  }

  kvm::FaultKvm kvm_;
  std::optional<kvm::Vm> vm_;
  std::unique_ptr<PrivateRegion> region_;
  std::optional<kvm::VcpuFd> vcpu_;
};

INSTANTIATE_TEST_SUITE_P(Files, PrivateRegionTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Mappable" : "Unmappable";
                         });

TEST_P(PrivateRegionTest, StartsEmpty) {
  EXPECT_EQ(region_->range(), Pages(0, kPages));
  EXPECT_THAT(Backed(region_->range()), IsEmpty());
}

TEST_P(PrivateRegionTest, FindsExactlyTheBackedPages) {
  Back(0, 1);
  Back(3, 3);
  Back(4095, 3);  // over the end of one look
  Back(kPages - 1, 1);
  EXPECT_THAT(Backed(region_->range()),
              ElementsAre(Pages(0, 1), Pages(3, 3), Pages(4095, 3),
                          Pages(kPages - 1, 1)));
  EXPECT_THAT(Backed(Pages(4, 4092)), ElementsAre(Pages(4, 2), Pages(4095, 1)));
  EXPECT_THAT(Backed(Pages(6, 4089)), IsEmpty());
  EXPECT_THAT(Backed(Pages(5, 1)), ElementsAre(Pages(5, 1)));
}

TEST_P(PrivateRegionTest, PunchGivesBackWhatItCovers) {
  Back(10, 5);
  ASSERT_OK(region_->Punch(Pages(11, 1)));
  ASSERT_OK(region_->Punch(Pages(13, 1)));
  EXPECT_THAT(Backed(region_->range()),
              ElementsAre(Pages(10, 1), Pages(12, 1), Pages(14, 1)));
  ASSERT_OK(region_->Punch(Pages(11, 1))) << "not backed";
  ASSERT_OK(region_->Punch(region_->range()));
  EXPECT_THAT(Backed(region_->range()), IsEmpty());
}

TEST_P(PrivateRegionTest, RefusesWhatIsNotItsPages) {
  Back(0, kPages);
  const GuestRange before =
      *GuestRange::Create(GuestAddress(kStart - kPageSize), 2 * kPageSize);
  const GuestRange unaligned =
      *GuestRange::Create(GuestAddress(kStart + 8), kPageSize);
  auto nothing = [](const GuestRange& /*range*/) {};
  for (const GuestRange& range :
       {before, Pages(kPages - 1, 2), Pages(kPages, 1)}) {
    EXPECT_THAT(region_->Punch(range), StatusIs(absl::StatusCode::kOutOfRange));
    EXPECT_THAT(region_->ForEachBacked(range, nothing),
                StatusIs(absl::StatusCode::kOutOfRange));
  }
  EXPECT_THAT(region_->ForEachBacked(unaligned, nothing),
              StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_FALSE(region_->Punch(unaligned).ok());
  EXPECT_THAT(Backed(region_->range()), ElementsAre(region_->range()));
}

// This process has no way to the pages: the slot's address is only reserved.
TEST_P(PrivateRegionTest, TheReservedAddressIsInaccessible) {
  Back(0, kPages);
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  EXPECT_EQ(::write(pipe[1], region_->reserved_host(), 1), -1);
  EXPECT_EQ(errno, EFAULT);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

}  // namespace
}  // namespace cloister::confidential
