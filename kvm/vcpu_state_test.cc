// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <functional>
#include <optional>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/uapi.h"
#include "cloister/kvm/vcpu_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class VcpuStateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<System> system = System::Open(fake_);
    ASSERT_TRUE(system.ok()) << system.status();
    absl::StatusOr<Vm> vm = system->CreateVm(VmType::kDefault);
    ASSERT_TRUE(vm.ok()) << vm.status();
    absl::StatusOr<VcpuFd> vcpu = vm->CreateVcpu(0);
    ASSERT_TRUE(vcpu.ok()) << vcpu.status();
    vcpu_.emplace(std::move(*vcpu));
  }
  FakeKvm fake_;
  std::optional<VcpuFd> vcpu_;
};

// Each field arrives in KVM's structure under its own name.
TEST_F(VcpuStateTest, RegistersLandInTheirPlaces) {
  Registers ours;
  ours.rax = 1;
  ours.rsi = 2;
  ours.r8 = 3;
  ours.r15 = 4;
  ours.rip = 5;
  ours.rflags = 6;
  ASSERT_OK(vcpu_->SetRegisters(ours));
  auto theirs = fake_.LastArgument<struct kvm_regs>(KVM_SET_REGS);
  EXPECT_EQ(theirs.rax, 1u);
  EXPECT_EQ(theirs.rsi, 2u);
  EXPECT_EQ(theirs.r8, 3u);
  EXPECT_EQ(theirs.r15, 4u);
  EXPECT_EQ(theirs.rip, 5u);
  EXPECT_EQ(theirs.rflags, 6u);
  EXPECT_THAT(vcpu_->GetRegisters(), IsOkAndHolds(ours));
}

TEST_F(VcpuStateTest, SpecialRegistersLandInTheirPlaces) {
  SpecialRegisters ours;
  ours.cs = {0x1000, 0xffffffff, 8, 11, 1, 3, 0, 1, 1, 1, 0, 0, 0};
  ours.ldt.unusable = 1;
  ours.gdt.base = 0x5000;
  ours.gdt.limit = 23;
  ours.cr0 = 0x80000011;
  ours.cr8 = 9;
  ours.efer = 0x500;
  ours.apic_base = 0xfee00900;
  ours.interrupt_bitmap[3] = 7;
  ASSERT_OK(vcpu_->SetSpecialRegisters(ours));
  auto theirs = fake_.LastArgument<struct kvm_sregs>(KVM_SET_SREGS);
  EXPECT_EQ(theirs.cs.base, 0x1000u);
  EXPECT_EQ(theirs.cs.selector, 8);
  EXPECT_EQ(theirs.cs.type, 11);
  EXPECT_EQ(theirs.cs.dpl, 3);
  EXPECT_EQ(theirs.cs.db, 0);
  EXPECT_EQ(theirs.cs.s, 1);
  EXPECT_EQ(theirs.cs.l, 1);
  EXPECT_EQ(theirs.cs.g, 1);
  EXPECT_EQ(theirs.ldt.unusable, 1);
  EXPECT_EQ(theirs.gdt.base, 0x5000u);
  EXPECT_EQ(theirs.gdt.limit, 23);
  EXPECT_EQ(theirs.cr0, 0x80000011u);
  EXPECT_EQ(theirs.cr8, 9u);
  EXPECT_EQ(theirs.efer, 0x500u);
  EXPECT_EQ(theirs.apic_base, 0xfee00900u);
  EXPECT_EQ(theirs.interrupt_bitmap[3], 7u);
  EXPECT_THAT(vcpu_->GetSpecialRegisters(), IsOkAndHolds(ours));
}

TEST_F(VcpuStateTest, OtherStateComesBackAsItWas) {
  FpuState fpu;
  fpu.fcw = 0x37f;
  fpu.mxcsr = 0x1f80;
  fpu.xmm[15][15] = 3;
  ASSERT_OK(vcpu_->SetFpu(fpu));
  EXPECT_EQ(fake_.LastArgument<struct kvm_fpu>(KVM_SET_FPU).mxcsr, 0x1f80u);
  EXPECT_THAT(vcpu_->GetFpu(), IsOkAndHolds(fpu));

  LapicState lapic;
  lapic.Write(0x20, 0x03000000);
  ASSERT_OK(vcpu_->SetLapic(lapic));
  EXPECT_THAT(vcpu_->GetLapic(), IsOkAndHolds(lapic));

  VcpuEvents events;
  events.bytes[40] = 5;
  ASSERT_OK(vcpu_->SetVcpuEvents(events));
  EXPECT_THAT(vcpu_->GetVcpuEvents(), IsOkAndHolds(events));

  ASSERT_OK(vcpu_->SetMpState(MpState::kHalted));
  EXPECT_EQ(fake_.LastArgument<struct kvm_mp_state>(KVM_SET_MP_STATE).mp_state,
            uint32_t{KVM_MP_STATE_HALTED});
  EXPECT_THAT(vcpu_->GetMpState(), IsOkAndHolds(MpState::kHalted));

  ASSERT_OK(vcpu_->SetXcrs({{0, 7}}));
  EXPECT_EQ(fake_.LastArgument<struct kvm_xcrs>(KVM_SET_XCRS).nr_xcrs, 1u);
  EXPECT_THAT(vcpu_->GetXcrs(), IsOkAndHolds(ElementsAre(Xcr{0, 7})));

  ASSERT_OK(vcpu_->SetTscKhz(1000));
  EXPECT_EQ(fake_.CallsOf(KVM_SET_TSC_KHZ)[0].argument, 1000u);
  EXPECT_THAT(vcpu_->GetTscKhz(), IsOkAndHolds(2000000u));
}

TEST_F(VcpuStateTest, XcrCountsAreBounded) {
  std::vector<Xcr> many(17);
  EXPECT_THAT(vcpu_->SetXcrs(many),
              StatusIs(absl::StatusCode::kInvalidArgument));
  fake_.QueueHandler(KVM_GET_XCRS, [](int, uintptr_t argument) {
    reinterpret_cast<struct kvm_xcrs*>(argument)->nr_xcrs = 17;
    return 0;
  });
  EXPECT_THAT(vcpu_->GetXcrs(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(VcpuStateTest, CpuidRoundTripsWhateverItsSize) {
  std::vector<CpuidEntry> leaves(200);
  for (uint32_t i = 0; i < leaves.size(); ++i) {
    leaves[i].function = i;
    leaves[i].index = 2 * i;
    leaves[i].flags = CpuidEntry::kSignificantIndex;
    leaves[i].edx = ~i;
  }
  ASSERT_OK(vcpu_->SetCpuid(leaves));
  EXPECT_THAT(vcpu_->GetCpuid(), IsOkAndHolds(leaves));
  fake_.QueueErrno(KVM_SET_CPUID2, E2BIG);
  EXPECT_THAT(vcpu_->SetCpuid(leaves),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("with 200 entries")));
  fake_.SetHandler(KVM_GET_CPUID2, [](int, uintptr_t) {
    errno = E2BIG;
    return -1;
  });
  EXPECT_THAT(vcpu_->GetCpuid(), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(VcpuStateTest, MsrsGoInBatches) {
  std::vector<MsrEntry> entries;
  std::vector<uint32_t> indices;
  for (uint32_t i = 0; i < 600; ++i) {
    entries.push_back({0x1000 + i, 0, 7 * i});
    indices.push_back(0x1000 + i);
  }
  ASSERT_OK(vcpu_->SetMsrs(entries));
  EXPECT_EQ(fake_.CountOf(KVM_SET_MSRS), 3u);
  EXPECT_THAT(vcpu_->GetMsrs(indices), IsOkAndHolds(entries));
  ASSERT_OK(vcpu_->SetMsrs({}));
  EXPECT_THAT(vcpu_->GetMsrs({}), IsOkAndHolds(SizeIs(0)));
}

TEST_F(VcpuStateTest, PartialMsrCountsNameTheCulprit) {
  fake_.QueueResult(KVM_SET_MSRS, 1);
  EXPECT_THAT(vcpu_->SetMsrs({{0x10, 0, 1}, {0xc0000080, 0, 0x500}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("refused MSR 0xc0000080 = 0x500")));
  fake_.QueueResult(KVM_GET_MSRS, 0);
  EXPECT_THAT(vcpu_->GetMsrs({0x123}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("KVM_GET_MSRS(vCPU 0): KVM refused MSR "
                                 "0x123")));
}

// Every access reports its ioctl's name, and retries EINTR.
TEST_F(VcpuStateTest, EveryAccessReportsErrors) {
  struct {
    unsigned long request;
    const char* name;
    std::function<absl::Status()> call;
  } accesses[] = {
      {KVM_GET_REGS, "KVM_GET_REGS",
       [&] { return vcpu_->GetRegisters().status(); }},
      {KVM_SET_REGS, "KVM_SET_REGS", [&] { return vcpu_->SetRegisters({}); }},
      {KVM_GET_SREGS, "KVM_GET_SREGS",
       [&] { return vcpu_->GetSpecialRegisters().status(); }},
      {KVM_SET_SREGS, "KVM_SET_SREGS",
       [&] { return vcpu_->SetSpecialRegisters({}); }},
      {KVM_SET_CPUID2, "KVM_SET_CPUID2", [&] { return vcpu_->SetCpuid({}); }},
      {KVM_GET_CPUID2, "KVM_GET_CPUID2",
       [&] { return vcpu_->GetCpuid().status(); }},
      {KVM_SET_MSRS, "KVM_SET_MSRS",
       [&] {
         return vcpu_->SetMsrs({{1, 0, 0}});
       }},
      {KVM_GET_MSRS, "KVM_GET_MSRS",
       [&] { return vcpu_->GetMsrs({1}).status(); }},
      {KVM_GET_MP_STATE, "KVM_GET_MP_STATE",
       [&] { return vcpu_->GetMpState().status(); }},
      {KVM_SET_MP_STATE, "KVM_SET_MP_STATE",
       [&] { return vcpu_->SetMpState(MpState::kRunnable); }},
      {KVM_GET_LAPIC, "KVM_GET_LAPIC",
       [&] { return vcpu_->GetLapic().status(); }},
      {KVM_SET_LAPIC, "KVM_SET_LAPIC", [&] { return vcpu_->SetLapic({}); }},
      {KVM_GET_FPU, "KVM_GET_FPU", [&] { return vcpu_->GetFpu().status(); }},
      {KVM_SET_FPU, "KVM_SET_FPU", [&] { return vcpu_->SetFpu({}); }},
      {KVM_GET_XCRS, "KVM_GET_XCRS", [&] { return vcpu_->GetXcrs().status(); }},
      {KVM_SET_XCRS, "KVM_SET_XCRS", [&] { return vcpu_->SetXcrs({}); }},
      {KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS",
       [&] { return vcpu_->GetVcpuEvents().status(); }},
      {KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS",
       [&] { return vcpu_->SetVcpuEvents({}); }},
      {KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ",
       [&] { return vcpu_->GetTscKhz().status(); }},
      {KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", [&] { return vcpu_->SetTscKhz(1); }},
  };
  for (const auto& access : accesses) {
    fake_.QueueErrno(access.request, EIO);
    EXPECT_THAT(access.call(),
                StatusIs(absl::StatusCode::kInternal,
                         HasSubstr(std::string(access.name) + "(vCPU 0)")));
    fake_.QueueErrno(access.request, EINTR);
    EXPECT_OK(access.call()) << access.name;
  }
}

}  // namespace
}  // namespace cloister::kvm
