// SPDX-License-Identifier: Apache-2.0
//
// Memory faults, exits and pre-faulting, on a host with software-protected VMs.
// What is expected here is what the kernel's own selftests pin down.
#include <atomic>
#include <cerrno>
#include <thread>

#include "cloister/base/status_matchers.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/lab_fixture.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/test_guest.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::IsOkAndHolds;
using base::StatusErrno;
using base::StatusIs;

using LabExitTest = LabTest;
using LabPreFaultTest = LabTest;

// --- exits ---

TEST_F(LabExitTest, PrivateAccessWithoutGuestMemfd) {
  ASSERT_OK_AND_ASSIGN(HostMapping host, MapAnonymous(2 * kPage));
  ASSERT_OK(vm_->SetMemoryRegion(Region(1, kData, host)));
  ASSERT_OK(vm_->SetMemoryAttributes(Range(kData, 2 * kPage), true));
  Load(TestCode().MovRdx(kData + kPage + 8).LoadRax().Hlt());
  MemoryFaultExit fault = RunTo<MemoryFaultExit>();
  EXPECT_EQ(fault.address.value(), kData + kPage);
  EXPECT_EQ(fault.size, kPage);
  EXPECT_EQ(fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
  EXPECT_TRUE(fault.is_private);
  // Made shared, the same access goes on.
  ASSERT_OK(vm_->SetMemoryAttributes(Range(kData, 2 * kPage), false));
  RunTo<HaltExit>();
}

TEST_F(LabExitTest, PrivateAccessWithoutSlot) {
  AddPrivateMemory(1);
  ASSERT_OK(vm_->DeleteMemoryRegion(Slot(1)));
  Load(TestCode().MovRdx(kData).LoadRax().Hlt());
  MemoryFaultExit fault = RunTo<MemoryFaultExit>();
  EXPECT_EQ(fault.address.value(), kData);
  EXPECT_EQ(fault.size, kPage);
  EXPECT_TRUE(fault.is_private);
  // The attribute outlives the slot; cleared, the access is plain MMIO.
  ASSERT_OK(vm_->SetMemoryAttributes(Range(kData, kPage), false));
  EXPECT_EQ(RunTo<MmioExit>().address.value(), kData);
}

TEST_F(LabExitTest, SlotDeletedUnderPrivateAccess) {
  AddPrivateMemory(1);
  // Tells that it runs, then reads for ever.
  Load(TestCode().MovRdx(0x10).OutAl().MovRdx(kData).LoadRaxForEver());
  RunTo<IoExit>();
  std::thread deleter([&] { EXPECT_OK(vm_->DeleteMemoryRegion(Slot(1))); });
  MemoryFaultExit fault = RunTo<MemoryFaultExit>();
  deleter.join();
  EXPECT_EQ(fault.address.value(), kData);
  EXPECT_EQ(fault.size, kPage);
  EXPECT_TRUE(fault.is_private);
}

TEST_F(LabExitTest, MapGpaRangeHypercall) {
  ASSERT_OK(vm_->EnableHypercallExits());
  Load(TestCode()
           .MovRax(kData)
           .MovRbxRax()
           .MovEcx(2)
           .MovRdx(16)
           .MovRax(HypercallExit::kMapGpaRange)
           .Vmmcall()
           .MovRbxRax()
           .Hlt());
  HypercallExit call = RunTo<HypercallExit>();
  EXPECT_EQ(call.number, HypercallExit::kMapGpaRange);
  EXPECT_EQ(call.args[0], kData);
  EXPECT_EQ(call.args[1], 2u);
  EXPECT_EQ(call.args[2], 16u);
  EXPECT_TRUE(call.long_mode);
  ASSERT_NE(call.result, nullptr);
  *call.result = 0x55;
  RunTo<HaltExit>();
  ASSERT_OK_AND_ASSIGN(Registers registers, vcpu_->GetRegisters());
  EXPECT_EQ(registers.rbx, 0x55u);
}

TEST_F(LabExitTest, UnknownAndFilteredMsrs) {
  constexpr uint32_t kUnknownMsr = 0x4badbad, kSysenterEip = 0x176;
  ASSERT_OK(vm_->EnableUserSpaceMsrExits());
  ASSERT_OK(vm_->SetMsrFilter({{kSysenterEip, 1}}));
  Load(TestCode()
           .MovRax(5)
           .MovRdx(1)
           .MovEcx(kUnknownMsr)
           .Wrmsr()
           .MovEcx(kSysenterEip)
           .Wrmsr()
           .Hlt());
  MsrExit unknown = RunTo<MsrExit>();
  EXPECT_EQ(unknown.index, kUnknownMsr);
  EXPECT_TRUE(unknown.is_write);
  EXPECT_EQ(unknown.value, 0x1'0000'0005u);
  EXPECT_EQ(unknown.reason, MsrExit::kUnknown);
  MsrExit filtered = RunTo<MsrExit>();
  EXPECT_EQ(filtered.index, kSysenterEip);
  EXPECT_EQ(filtered.reason, MsrExit::kFilter);
  RunTo<HaltExit>();
}

// --- pre-fault ---

TEST_F(LabPreFaultTest, FullPartialAndOutside) {
  if (vm_->CheckExtension(Capability::kPreFaultMemory) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_CAP_PRE_FAULT_MEMORY (6.11)";
  }
  AddPrivateMemory(8);
  Load(TestCode().Hlt());
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData, 8 * kPage)),
              IsOkAndHolds(8 * kPage));
  // Again, where everything is there already.
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData, 8 * kPage)),
              IsOkAndHolds(8 * kPage));
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData + 6 * kPage, 8 * kPage)),
              IsOkAndHolds(2 * kPage));
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData + 8 * kPage, kPage)),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData + 1, kPage)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  // Shared pages too.
  ASSERT_OK(vm_->SetMemoryAttributes(Range(kData, 4 * kPage), false));
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData, 8 * kPage)),
              IsOkAndHolds(8 * kPage));
  EXPECT_EQ(GuestRead(kData), 0u);
}

TEST_F(LabPreFaultTest, SlotDeletedMeanwhile) {
  if (vm_->CheckExtension(Capability::kPreFaultMemory) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_CAP_PRE_FAULT_MEMORY (6.11)";
  }
  constexpr uint64_t kPages = 64;
  constexpr int kMaxDeletions = 10000;
  AddPrivateMemory(kPages);
  Load(TestCode().Hlt());
  std::atomic<bool> done{false}, stop{false};
  std::thread deleter([&] {
    for (int i = 0; i < kMaxDeletions && !stop; ++i) {
      EXPECT_OK(vm_->DeleteMemoryRegion(Slot(1)));
      EXPECT_OK(BindPrivateMemory());
    }
    done = true;
  });
  // Goes on until deletions have hit pre-faulting, and missed it, a few times.
  int whole = 0, hit = 0;
  while (!done) {
    absl::StatusOr<uint64_t> bytes =
        vcpu_->PreFaultMemory(Range(kData, kPages * kPage));
    if (bytes.ok()) {
      EXPECT_GT(*bytes, 0u);
      EXPECT_LE(*bytes, kPages * kPage);
    } else {
      // A private page without a slot, or one that is just going.
      int error = StatusErrno(bytes.status());
      EXPECT_TRUE(error == EFAULT || error == EAGAIN) << bytes.status();
    }
    (bytes.ok() && *bytes == kPages * kPage ? whole : hit) += 1;
    if (whole >= 3 && hit >= 3) stop = true;
  }
  deleter.join();
  EXPECT_GT(whole, 0);
  EXPECT_GT(hit, 0);
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(kData, kPages * kPage)),
              IsOkAndHolds(kPages * kPage));
}

}  // namespace
}  // namespace cloister::kvm
