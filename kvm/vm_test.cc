// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/vm.h"

#include <fcntl.h>

#include <cerrno>
#include <optional>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::StatusIs;
using memory::GuestAddress;
using memory::GuestRange;
using ::testing::AllOf;
using ::testing::HasSubstr;

class VmTest : public ::testing::Test {
 protected:
  void Start() {
    absl::StatusOr<System> system = System::Open(fake_);
    ASSERT_TRUE(system.ok()) << system.status();
    absl::StatusOr<Vm> vm = system->CreateVm(VmType::kDefault);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_.emplace(std::move(*vm));
  }
  MemoryRegion Region(uint16_t slot, uint64_t gpa, uint64_t size) {
    MemoryRegion region;
    region.slot = Slot(slot);
    region.gpa = GuestAddress(gpa);
    region.size = size;
    region.host = reinterpret_cast<void*>(uintptr_t{0x10000});
    return region;
  }
  GuestRange Range(uint64_t start, uint64_t size) {
    return *GuestRange::Create(GuestAddress(start), size);
  }

  FakeKvm fake_;
  std::optional<Vm> vm_;
};

TEST_F(VmTest, CheckExtensionAsksTheVm) {
  Start();
  fake_.SetCapability(Capability::kMemoryAttributes, 8);
  fake_.SetVmCapability(Capability::kMemoryAttributes, 0);
  EXPECT_EQ(vm_->CheckExtension(Capability::kMemoryAttributes), 0);
  EXPECT_EQ(vm_->CheckExtension(Capability::kMaxVcpus), 1024);
  fake_.QueueErrno(KVM_CHECK_EXTENSION, EINVAL);
  EXPECT_EQ(vm_->CheckExtension(Capability::kMaxVcpus), 0);
}

TEST_F(VmTest, SetsRegionsWithTheSecondVersion) {
  Start();
  MemoryRegion region = Region(3, 0x100000, 0x2000);
  region.readonly = true;
  region.log_dirty = true;
  ASSERT_OK(vm_->SetMemoryRegion(region));
  auto sent = fake_.LastArgument<struct kvm_userspace_memory_region2>(
      KVM_SET_USER_MEMORY_REGION2);
  EXPECT_EQ(sent.slot, 3u);
  EXPECT_EQ(sent.flags, KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES);
  EXPECT_EQ(sent.guest_phys_addr, 0x100000u);
  EXPECT_EQ(sent.memory_size, 0x2000u);
  EXPECT_EQ(sent.userspace_addr, 0x10000u);
  EXPECT_EQ(fake_.CountOf(KVM_SET_USER_MEMORY_REGION), 0u);
}

TEST_F(VmTest, SetsRegionsWithTheFirstVersionOnOldKernels) {
  fake_.SetCapability(Capability::kUserMemory2, 0);
  Start();
  ASSERT_OK(vm_->SetMemoryRegion(Region(0, 0, 0x1000)));
  auto sent = fake_.LastArgument<struct kvm_userspace_memory_region>(
      KVM_SET_USER_MEMORY_REGION);
  EXPECT_EQ(sent.memory_size, 0x1000u);
  EXPECT_EQ(fake_.CountOf(KVM_SET_USER_MEMORY_REGION2), 0u);
  ASSERT_OK(vm_->DeleteMemoryRegion(Slot(0)));
  EXPECT_TRUE(fake_.slots(vm_->fd()).empty());

  MemoryRegion bound = Region(1, 0x1000, 0x1000);
  bound.guest_memfd = GuestMemfdBinding{5, 0};
  EXPECT_THAT(vm_->SetMemoryRegion(bound),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("KVM_CAP_USER_MEMORY2")));
}

TEST_F(VmTest, BindsGuestMemfd) {
  Start();
  ASSERT_OK_AND_ASSIGN(GuestMemfd file, vm_->CreateGuestMemfd(0x4000, {}));
  MemoryRegion region = Region(1, 0x100000, 0x2000);
  region.guest_memfd = GuestMemfdBinding{file.fd(), 0x1000};
  ASSERT_OK(vm_->SetMemoryRegion(region));
  auto sent = fake_.LastArgument<struct kvm_userspace_memory_region2>(
      KVM_SET_USER_MEMORY_REGION2);
  EXPECT_EQ(sent.flags, KVM_MEM_GUEST_MEMFD);
  EXPECT_EQ(sent.guest_memfd, static_cast<uint32_t>(file.fd()));
  EXPECT_EQ(sent.guest_memfd_offset, 0x1000u);
  EXPECT_EQ(fake_.slots(vm_->fd())[1].guest_memfd, file.fd());
}

// Size 0 means "delete" to KVM: it must not get there by accident.
TEST_F(VmTest, BadRegionsNeverReachKvm) {
  Start();
  for (auto [gpa, size] : {std::pair<uint64_t, uint64_t>{0, 0},
                           {0x1000, 0x800},
                           {0x800, 0x1000},
                           {~0xfffull, 0x2000}}) {
    EXPECT_THAT(vm_->SetMemoryRegion(Region(9, gpa, size)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("memory slot 9")));
  }
  EXPECT_EQ(fake_.CountOf(KVM_SET_USER_MEMORY_REGION2), 0u);
}

TEST_F(VmTest, RegionErrorsNameTheRegion) {
  Start();
  ASSERT_OK(vm_->SetMemoryRegion(Region(0, 0, 0x2000)));
  EXPECT_THAT(vm_->SetMemoryRegion(Region(1, 0x1000, 0x1000)),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       AllOf(HasSubstr("KVM_SET_USER_MEMORY_REGION2(slot 1 at "
                                       "0x1000 size 0x1000)"),
                             HasSubstr("EEXIST"))));
  EXPECT_THAT(
      vm_->DeleteMemoryRegion(Slot(7)),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("delete slot 7")));
  fake_.QueueErrno(KVM_SET_USER_MEMORY_REGION2, ENOMEM);
  EXPECT_THAT(vm_->SetMemoryRegion(Region(2, 0x10000, 0x1000)),
              StatusIs(absl::StatusCode::kResourceExhausted));
  fake_.QueueErrno(KVM_SET_USER_MEMORY_REGION2, EINTR);
  EXPECT_OK(vm_->SetMemoryRegion(Region(2, 0x10000, 0x1000)));
}

TEST_F(VmTest, GuestMemfdIsCloseOnExecAndKeepsItsFlags) {
  Start();
  EXPECT_EQ(vm_->SupportedGuestMemfdFlags(), (GuestMemfdFlags{true, true}));
  ASSERT_OK_AND_ASSIGN(GuestMemfd file,
                       vm_->CreateGuestMemfd(0x3000, {true, true}));
  EXPECT_TRUE(fcntl(file.fd(), F_GETFD) & FD_CLOEXEC);
  EXPECT_EQ(file.size(), 0x3000u);
  auto sent =
      fake_.LastArgument<struct kvm_create_guest_memfd>(KVM_CREATE_GUEST_MEMFD);
  EXPECT_EQ(sent.size, 0x3000u);
  EXPECT_EQ(sent.flags, 3u);
  ASSERT_OK(file.Map());
}

TEST_F(VmTest, GuestMemfdErrors) {
  Start();
  EXPECT_THAT(vm_->CreateGuestMemfd(0, {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(vm_->CreateGuestMemfd(0x1001, {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(fake_.CountOf(KVM_CREATE_GUEST_MEMFD), 0u);
  fake_.SetVmCapability(Capability::kGuestMemfdFlags, 0);
  EXPECT_EQ(vm_->SupportedGuestMemfdFlags(), GuestMemfdFlags{});
  EXPECT_THAT(vm_->CreateGuestMemfd(0x1000, {true, false}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("size 0x1000 mmap)")));
  fake_.SetVmCapability(Capability::kGuestMemfd, 0);
  EXPECT_THAT(vm_->CreateGuestMemfd(0x1000, {}),
              StatusIs(absl::StatusCode::kUnimplemented));
}

TEST_F(VmTest, MemoryAttributes) {
  Start();
  ASSERT_OK(vm_->SetMemoryAttributes(Range(0x1000, 0x2000), true));
  auto sent = fake_.LastArgument<struct kvm_memory_attributes>(
      KVM_SET_MEMORY_ATTRIBUTES);
  EXPECT_EQ(sent.address, 0x1000u);
  EXPECT_EQ(sent.size, 0x2000u);
  EXPECT_EQ(sent.attributes, 8u);
  EXPECT_EQ(sent.flags, 0u);
  ASSERT_OK(vm_->SetMemoryAttributes(Range(0x1000, 0x1000), false));
  ASSERT_EQ(fake_.attribute_calls().size(), 2u);
  EXPECT_FALSE(fake_.attribute_calls()[1].is_private);

  EXPECT_THAT(vm_->SetMemoryAttributes(Range(0x1000, 0x800), true),
              StatusIs(absl::StatusCode::kInvalidArgument));
  fake_.SetVmCapability(Capability::kMemoryAttributes, 0);
  EXPECT_THAT(vm_->SetMemoryAttributes(Range(0x1000, 0x1000), true),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("[0x1000, 0x1fff] to private")));
}

TEST_F(VmTest, IntelPages) {
  Start();
  ASSERT_OK(vm_->SetTssAddress(GuestAddress(0xfffbd000)));
  EXPECT_EQ(fake_.CallsOf(KVM_SET_TSS_ADDR)[0].argument, 0xfffbd000u);
  ASSERT_OK(vm_->SetIdentityMapAddress(GuestAddress(0xfffbc000)));
  EXPECT_EQ(fake_.LastArgument<uint64_t>(KVM_SET_IDENTITY_MAP_ADDR),
            0xfffbc000u);
  fake_.QueueErrno(KVM_SET_TSS_ADDR, EINVAL);
  EXPECT_THAT(vm_->SetTssAddress(GuestAddress(0x10)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0x10")));
  fake_.QueueErrno(KVM_SET_IDENTITY_MAP_ADDR, EINVAL);
  EXPECT_THAT(vm_->SetIdentityMapAddress(GuestAddress(0x10)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(VmTest, HypercallExits) {
  Start();
  ASSERT_OK(vm_->EnableHypercallExits());
  auto sent = fake_.LastArgument<struct kvm_enable_cap>(KVM_ENABLE_CAP);
  EXPECT_EQ(sent.cap, static_cast<uint32_t>(KVM_CAP_EXIT_HYPERCALL));
  EXPECT_EQ(sent.args[0], 1u << 12);
  fake_.SetCapability(Capability::kExitHypercall, 0);
  EXPECT_THAT(vm_->EnableHypercallExits(),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("KVM_CAP_EXIT_HYPERCALL")));
  fake_.SetCapability(Capability::kExitHypercall, 1 << 12);
  fake_.QueueErrno(KVM_ENABLE_CAP, EINVAL);
  EXPECT_THAT(vm_->EnableHypercallExits(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("KVM_CAP_EXIT_HYPERCALL, 0x1000")));
}

TEST_F(VmTest, UserSpaceMsrs) {
  Start();
  ASSERT_OK(vm_->EnableUserSpaceMsrExits());
  auto sent = fake_.LastArgument<struct kvm_enable_cap>(KVM_ENABLE_CAP);
  EXPECT_EQ(sent.args[0],
            uint64_t{KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER});
  fake_.SetCapability(Capability::kUserSpaceMsr, 0);
  EXPECT_THAT(vm_->EnableUserSpaceMsrExits(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(VmTest, MsrFilter) {
  Start();
  ASSERT_OK(vm_->SetMsrFilter({{0x1a0, 2, true, false}, {0xc0010000, 1}}));
  auto sent = fake_.LastArgument<struct kvm_msr_filter>(KVM_X86_SET_MSR_FILTER);
  EXPECT_EQ(sent.flags, 0u);
  EXPECT_EQ(sent.ranges[0].base, 0x1a0u);
  EXPECT_EQ(sent.ranges[0].nmsrs, 2u);
  EXPECT_EQ(sent.ranges[0].flags, uint32_t{KVM_MSR_FILTER_READ});
  EXPECT_EQ(sent.ranges[1].flags,
            uint32_t{KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE});
  EXPECT_NE(sent.ranges[1].bitmap, nullptr);
  EXPECT_EQ(sent.ranges[2].nmsrs, 0u);
  ASSERT_OK(vm_->SetMsrFilter({}));

  std::vector<MsrRange> many(17, MsrRange{0x10, 1});
  EXPECT_THAT(vm_->SetMsrFilter(many),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(vm_->SetMsrFilter({{0, 0x3001}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(vm_->SetMsrFilter({{0, 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  fake_.QueueErrno(KVM_X86_SET_MSR_FILTER, ENOMEM);
  EXPECT_THAT(vm_->SetMsrFilter({{0, 1}}),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(VmTest, Clock) {
  Start();
  ClockData clock;
  clock.nanoseconds = 123;
  ASSERT_OK(vm_->SetClock(clock));
  EXPECT_EQ(fake_.LastArgument<struct kvm_clock_data>(KVM_SET_CLOCK).flags, 0u);
  clock.realtime = 77;
  ASSERT_OK(vm_->SetClock(clock));
  ASSERT_OK_AND_ASSIGN(ClockData back, vm_->GetClock());
  EXPECT_EQ(back.nanoseconds, 123u);
  EXPECT_EQ(back.realtime, 77u);
  EXPECT_FALSE(back.host_tsc.has_value());
  fake_.QueueErrno(KVM_GET_CLOCK, EFAULT);
  EXPECT_THAT(vm_->GetClock(), StatusIs(absl::StatusCode::kInternal));
  fake_.QueueErrno(KVM_SET_CLOCK, EINVAL);
  EXPECT_THAT(vm_->SetClock(clock),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK(vm_->SetTscKhz(2000000));
  EXPECT_EQ(fake_.CallsOf(KVM_SET_TSC_KHZ)[0].argument, 2000000u);
  fake_.QueueErrno(KVM_SET_TSC_KHZ, ENOTTY);
  EXPECT_THAT(vm_->SetTscKhz(1), StatusIs(absl::StatusCode::kUnimplemented));
}

TEST_F(VmTest, CreateVcpu) {
  fake_.SetCapability(Capability::kMaxVcpus, 2);
  Start();
  fake_.QueueErrno(KVM_CREATE_VCPU, EINTR);
  ASSERT_OK_AND_ASSIGN(VcpuFd first, vm_->CreateVcpu(0));
  EXPECT_EQ(first.id(), 0u);
  EXPECT_THAT(vm_->CreateVcpu(0), StatusIs(absl::StatusCode::kAlreadyExists,
                                           HasSubstr("KVM_CREATE_VCPU(0)")));
  ASSERT_OK_AND_ASSIGN(VcpuFd second, vm_->CreateVcpu(300));
  EXPECT_THAT(vm_->CreateVcpu(301),
              StatusIs(absl::StatusCode::kInvalidArgument));
  fake_.FailNextMmap(ENOMEM);
  fake_.SetCapability(Capability::kMaxVcpus, 3);
  EXPECT_THAT(vm_->CreateVcpu(302),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("run page of vCPU 302")));
}

}  // namespace
}  // namespace cloister::kvm
