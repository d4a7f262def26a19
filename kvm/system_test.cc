// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/system.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

absl::Status OpenWith(int error) {
  FakeKvm fake;
  fake.FailNextOpen(error);
  return System::Open(fake, "/dev/kvm").status();
}

TEST(SystemOpen, SaysWhatToDo) {
  auto one_line = Not(HasSubstr("\n"));
  EXPECT_THAT(
      OpenWith(ENOENT),
      StatusIs(absl::StatusCode::kNotFound,
               AllOf(HasSubstr("/dev/kvm does not exist: load"), one_line)));
  EXPECT_THAT(OpenWith(ENODEV), StatusIs(absl::StatusCode::kNotFound,
                                         HasSubstr("no KVM behind it")));
  EXPECT_THAT(OpenWith(ENXIO),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("ENXIO")));
  EXPECT_THAT(OpenWith(EACCES), StatusIs(absl::StatusCode::kPermissionDenied,
                                         AllOf(HasSubstr("/dev/kvm"),
                                               HasSubstr("group"), one_line)));
  EXPECT_THAT(OpenWith(EPERM), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(OpenWith(EMFILE), StatusIs(absl::StatusCode::kResourceExhausted,
                                         HasSubstr("open(/dev/kvm)")));
}

TEST(SystemOpen, RefusesWhatIsNotKvm) {
  EXPECT_THAT(System::Open(RealSyscalls(), "/dev/null"),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("/dev/null is not a KVM device")));
  EXPECT_THAT(System::Open(RealSyscalls(), "/no/such/device"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(SystemAdopt, TakesADeviceThatIsOpenAndRefusesOthers) {
  FakeKvm fake;
  base::UniqueFd device(fake.Open("/dev/kvm", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(device.valid());
  const int fd = device.get();
  ASSERT_OK_AND_ASSIGN(System system, System::Adopt(std::move(device), fake));
  EXPECT_EQ(system.fd(), fd);
  base::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_THAT(System::Adopt(std::move(null)),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("not a KVM device")));
}

TEST(SystemOpen, RefusesOtherApiVersions) {
  FakeKvm fake;
  fake.QueueResult(KVM_GET_API_VERSION, 11);
  EXPECT_THAT(System::Open(fake), StatusIs(absl::StatusCode::kUnimplemented,
                                           HasSubstr("version 11, not 12")));
  fake.QueueErrno(KVM_GET_API_VERSION, EIO);
  EXPECT_THAT(System::Open(fake),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("KVM_GET_API_VERSION(/dev/kvm)")));
}

TEST(SystemOpen, RetriesEintrAndSetsCloseOnExec) {
  FakeKvm fake;
  fake.FailNextOpen(EINTR);
  fake.QueueErrno(KVM_GET_API_VERSION, EINTR);
  ASSERT_OK_AND_ASSIGN(System system, System::Open(fake));
  EXPECT_EQ(system.api_version(), 12);
  EXPECT_TRUE(fcntl(system.fd(), F_GETFD) & FD_CLOEXEC);
}

class SystemTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<System> opened = System::Open(fake_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    system_ = std::make_unique<System>(std::move(*opened));
  }
  FakeKvm fake_;
  std::unique_ptr<System> system_;
};

TEST_F(SystemTest, CheckExtension) {
  fake_.SetCapability(Capability::kMemorySlots, 509);
  EXPECT_EQ(system_->CheckExtension(Capability::kMemorySlots), 509);
  fake_.SetCapability(Capability::kIrqfd, 0);
  EXPECT_EQ(system_->CheckExtension(Capability::kIrqfd), 0);
  fake_.QueueErrno(KVM_CHECK_EXTENSION, EINVAL);
  EXPECT_EQ(system_->CheckExtension(Capability::kMemorySlots), 0);
}

TEST_F(SystemTest, MaxVcpusFallsBack) {
  fake_.SetCapability(Capability::kMaxVcpus, 288);
  EXPECT_EQ(system_->MaxVcpus(), 288);
  fake_.SetCapability(Capability::kMaxVcpus, 0);
  EXPECT_EQ(system_->MaxVcpus(), 8);
  fake_.SetCapability(Capability::kVcpusRecommended, 0);
  EXPECT_EQ(system_->MaxVcpus(), 1);
}

TEST_F(SystemTest, VcpuMmapSize) {
  EXPECT_THAT(system_->VcpuMmapSize(), IsOkAndHolds(FakeKvm::kRunPageSize));
  fake_.QueueResult(KVM_GET_VCPU_MMAP_SIZE, 100);
  EXPECT_THAT(system_->VcpuMmapSize(), StatusIs(absl::StatusCode::kInternal));
  fake_.QueueErrno(KVM_GET_VCPU_MMAP_SIZE, ENOTTY);
  EXPECT_THAT(system_->VcpuMmapSize(),
              StatusIs(absl::StatusCode::kUnimplemented));
}

TEST_F(SystemTest, SupportedCpuidGrowsItsBuffer) {
  fake_.QueueErrno(KVM_GET_SUPPORTED_CPUID, E2BIG);
  fake_.QueueErrno(KVM_GET_SUPPORTED_CPUID, EINTR);
  ASSERT_OK_AND_ASSIGN(std::vector<CpuidEntry> leaves,
                       system_->SupportedCpuid());
  ASSERT_THAT(leaves, SizeIs(6));
  EXPECT_EQ(leaves[0].ebx, 0x756e6547u);
  EXPECT_EQ(leaves[2].function, 0xdu);
  EXPECT_EQ(leaves[2].flags, CpuidEntry::kSignificantIndex);
}

TEST_F(SystemTest, SupportedCpuidDoesNotAskForEver) {
  fake_.SetHandler(KVM_GET_SUPPORTED_CPUID, [](int, uintptr_t) {
    errno = E2BIG;
    return -1;
  });
  EXPECT_THAT(system_->SupportedCpuid(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_LT(fake_.CountOf(KVM_GET_SUPPORTED_CPUID), 20u);
  fake_.QueueErrno(KVM_GET_SUPPORTED_CPUID, ENOMEM);
  EXPECT_THAT(system_->SupportedCpuid(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("KVM_GET_SUPPORTED_CPUID")));
}

// A count beyond the buffer must not be believed.
TEST_F(SystemTest, SupportedCpuidClampsTheCount) {
  fake_.QueueHandler(KVM_GET_SUPPORTED_CPUID, [](int, uintptr_t argument) {
    *reinterpret_cast<uint32_t*>(argument) = 0xffffffff;
    return 0;
  });
  ASSERT_OK_AND_ASSIGN(std::vector<CpuidEntry> leaves,
                       system_->SupportedCpuid());
  EXPECT_THAT(leaves, SizeIs(128));
}

TEST_F(SystemTest, MsrIndexList) {
  fake_.QueueErrno(KVM_GET_MSR_INDEX_LIST, E2BIG);
  EXPECT_THAT(system_->MsrIndexList(),
              IsOkAndHolds(ElementsAre(0x10, 0x174, 0x1a0, 0xc0000080)));
  fake_.QueueErrno(KVM_GET_MSR_INDEX_LIST, EFAULT);
  EXPECT_THAT(system_->MsrIndexList(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(SystemTest, FeatureMsrsSkipWhatTheCpuLacks) {
  // KVM reads the first, stops at the second; then reads the last two.
  fake_.QueueHandler(KVM_GET_MSRS, [](int, uintptr_t argument) {
    reinterpret_cast<struct kvm_msrs*>(argument)->entries[0].data = 5;
    return 1;
  });
  ASSERT_OK_AND_ASSIGN(std::vector<MsrEntry> msrs, system_->FeatureMsrs());
  EXPECT_THAT(msrs, ElementsAre(MsrEntry{0x10, 0, 5}, MsrEntry{0x1a0, 0, 0},
                                MsrEntry{0xc0000080, 0, 0}));
}

TEST_F(SystemTest, FeatureMsrsReportErrors) {
  fake_.QueueErrno(KVM_GET_MSR_FEATURE_INDEX_LIST, ENOTTY);
  EXPECT_THAT(system_->FeatureMsrs(),
              StatusIs(absl::StatusCode::kUnimplemented));
  fake_.QueueErrno(KVM_GET_MSRS, EFAULT);
  EXPECT_THAT(system_->FeatureMsrs(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(SystemTest, CreateVmRetriesEintrAndPassesTheType) {
  fake_.QueueErrno(KVM_CREATE_VM, EINTR);
  fake_.QueueErrno(KVM_CREATE_VM, EINTR);
  ASSERT_OK_AND_ASSIGN(Vm vm, system_->CreateVm(VmType::kSwProtected));
  EXPECT_EQ(vm.type(), VmType::kSwProtected);
  std::vector<FakeKvm::Call> calls = fake_.CallsOf(KVM_CREATE_VM);
  ASSERT_EQ(calls.size(), 3u);
  EXPECT_EQ(calls[2].argument, 1u);
}

TEST_F(SystemTest, CreateVmNamesTheTypeThatIsMissing) {
  EXPECT_THAT(system_->CreateVm(VmType::kTdx),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("KVM_CREATE_VM(tdx)")));
  fake_.QueueErrno(KVM_CREATE_VM, ENOMEM);
  EXPECT_THAT(system_->CreateVm(VmType::kDefault),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("KVM_CREATE_VM(default)")));
}

// Every system call on the way to a VM may fail: an error each time, never a
// crash, and success once nothing is left to fail.
TEST(SystemFaults, EveryCallMayFail) {
  FakeKvm fake;
  FaultKvm faults(fake);
  uint64_t nth = 1;
  for (;; ++nth) {
    ASSERT_LT(nth, 50u);
    faults.Reset();
    faults.FailCall(nth, EIO);
    absl::StatusOr<System> system = System::Open(faults);
    if (!system.ok()) continue;
    absl::StatusOr<Vm> vm = system->CreateVm(VmType::kDefault);
    if (!vm.ok()) continue;
    if (!faults.Fired()) break;
    // Only a CHECK_EXTENSION may fail and mean "no".
    EXPECT_EQ(nth, 5u);
  }
  EXPECT_EQ(nth, 6u);  // open, version, mmap size, create, extension
}

}  // namespace
}  // namespace cloister::kvm
