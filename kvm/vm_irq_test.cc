// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstring>
#include <optional>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/uapi.h"
#include "cloister/kvm/vm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

class VmIrqTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<System> system = System::Open(fake_);
    ASSERT_TRUE(system.ok()) << system.status();
    absl::StatusOr<Vm> vm = system->CreateVm(VmType::kDefault);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_.emplace(std::move(*vm));
  }
  FakeKvm fake_;
  std::optional<Vm> vm_;
};

TEST_F(VmIrqTest, FullIrqchip) {
  ASSERT_OK(vm_->CreateIrqchip());
  ASSERT_OK(vm_->CreatePit());
  EXPECT_EQ(fake_.LastArgument<struct kvm_pit_config>(KVM_CREATE_PIT2).flags,
            uint32_t{KVM_PIT_SPEAKER_DUMMY});
  ASSERT_OK(vm_->SetBootCpuId(2));
  EXPECT_EQ(fake_.CallsOf(KVM_SET_BOOT_CPU_ID)[0].argument, 2u);
  fake_.QueueErrno(KVM_CREATE_IRQCHIP, EEXIST);
  EXPECT_THAT(vm_->CreateIrqchip(), StatusIs(absl::StatusCode::kAlreadyExists,
                                             HasSubstr("KVM_CREATE_IRQCHIP")));
  fake_.QueueErrno(KVM_CREATE_PIT2, ENOENT);
  EXPECT_THAT(vm_->CreatePit(), StatusIs(absl::StatusCode::kNotFound,
                                         HasSubstr("KVM_CREATE_PIT2")));
  fake_.QueueErrno(KVM_SET_BOOT_CPU_ID, EBUSY);
  EXPECT_THAT(vm_->SetBootCpuId(2), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(VmIrqTest, SplitIrqchipAndX2apic) {
  ASSERT_OK(vm_->EnableSplitIrqchip(24));
  auto sent = fake_.LastArgument<struct kvm_enable_cap>(KVM_ENABLE_CAP);
  EXPECT_EQ(sent.cap, uint32_t{KVM_CAP_SPLIT_IRQCHIP});
  EXPECT_EQ(sent.args[0], 24u);
  ASSERT_OK(vm_->EnableX2apicApi());
  sent = fake_.LastArgument<struct kvm_enable_cap>(KVM_ENABLE_CAP);
  EXPECT_EQ(sent.cap, uint32_t{KVM_CAP_X2APIC_API});
  EXPECT_EQ(sent.args[0], 3u);
  fake_.SetCapability(Capability::kSplitIrqchip, 0);
  EXPECT_THAT(vm_->EnableSplitIrqchip(24),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("KVM_CAP_SPLIT_IRQCHIP, 0x18")));
}

TEST_F(VmIrqTest, Lines) {
  ASSERT_OK(vm_->SetIrqLine(Gsi(4), true));
  auto sent = fake_.LastArgument<struct kvm_irq_level>(KVM_IRQ_LINE);
  EXPECT_EQ(sent.irq, 4u);
  EXPECT_EQ(sent.level, 1u);
  ASSERT_OK(vm_->SetIrqLine(Gsi(4), false));
  EXPECT_EQ(fake_.LastArgument<struct kvm_irq_level>(KVM_IRQ_LINE).level, 0u);
  fake_.QueueErrno(KVM_IRQ_LINE, ENXIO);
  EXPECT_THAT(vm_->SetIrqLine(Gsi(4), true),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("KVM_IRQ_LINE(GSI 4, 1)")));
}

TEST_F(VmIrqTest, Irqfd) {
  ASSERT_OK(vm_->AttachIrqfd(10, Gsi(5)));
  auto sent = fake_.LastArgument<struct kvm_irqfd>(KVM_IRQFD);
  EXPECT_EQ(sent.fd, 10u);
  EXPECT_EQ(sent.gsi, 5u);
  EXPECT_EQ(sent.flags, 0u);
  ASSERT_OK(vm_->AttachIrqfd(10, Gsi(5), 11));
  sent = fake_.LastArgument<struct kvm_irqfd>(KVM_IRQFD);
  EXPECT_EQ(sent.flags, uint32_t{KVM_IRQFD_FLAG_RESAMPLE});
  EXPECT_EQ(sent.resamplefd, 11u);
  ASSERT_OK(vm_->DetachIrqfd(10, Gsi(5)));
  sent = fake_.LastArgument<struct kvm_irqfd>(KVM_IRQFD);
  EXPECT_EQ(sent.flags, uint32_t{KVM_IRQFD_FLAG_DEASSIGN});
  fake_.QueueErrno(KVM_IRQFD, EBUSY);
  EXPECT_THAT(vm_->AttachIrqfd(10, Gsi(5), 11),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("KVM_IRQFD(fd 10, GSI 5, resample)")));
  fake_.QueueErrno(KVM_IRQFD, EBADF);
  EXPECT_THAT(vm_->DetachIrqfd(10, Gsi(5)),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("detach")));
}

TEST_F(VmIrqTest, Msi) {
  ASSERT_OK(vm_->SignalMsi(Msi{0x1'fee0'1000, 0x41}));
  auto sent = fake_.LastArgument<struct kvm_msi>(KVM_SIGNAL_MSI);
  EXPECT_EQ(sent.address_lo, 0xfee01000u);
  EXPECT_EQ(sent.address_hi, 1u);
  EXPECT_EQ(sent.data, 0x41u);
  fake_.QueueResult(KVM_SIGNAL_MSI, 0);  // the guest does not take it
  EXPECT_OK(vm_->SignalMsi(Msi{0xfee00000, 0x41}));
  fake_.QueueErrno(KVM_SIGNAL_MSI, EINVAL);
  EXPECT_THAT(vm_->SignalMsi(Msi{0xfee00000, 0x41}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("address 0xfee00000, data 0x41")));
}

TEST_F(VmIrqTest, Routing) {
  using Chip = IrqchipPin::Chip;
  ASSERT_OK(vm_->SetGsiRouting({{Gsi(4), IrqchipPin{Chip::kPicSlave, 2}},
                                {Gsi(24), Msi{0x2'fee0'3000, 0x51}}}));
  std::vector<uint8_t> sent = fake_.CallsOf(KVM_SET_GSI_ROUTING)[0].data;
  ASSERT_EQ(sent.size(), 8 + 2 * sizeof(struct kvm_irq_routing_entry));
  struct kvm_irq_routing_entry entries[2];
  std::memcpy(entries, sent.data() + 8, sizeof(entries));
  EXPECT_EQ(entries[0].gsi, 4u);
  EXPECT_EQ(entries[0].type, uint32_t{KVM_IRQ_ROUTING_IRQCHIP});
  EXPECT_EQ(entries[0].u.irqchip.irqchip, 1u);
  EXPECT_EQ(entries[0].u.irqchip.pin, 2u);
  EXPECT_EQ(entries[1].gsi, 24u);
  EXPECT_EQ(entries[1].type, uint32_t{KVM_IRQ_ROUTING_MSI});
  EXPECT_EQ(entries[1].u.msi.address_lo, 0xfee03000u);
  EXPECT_EQ(entries[1].u.msi.address_hi, 2u);
  EXPECT_EQ(entries[1].u.msi.data, 0x51u);
  ASSERT_OK(vm_->SetGsiRouting({}));
  fake_.QueueErrno(KVM_SET_GSI_ROUTING, EINVAL);
  EXPECT_THAT(
      vm_->SetGsiRouting(DefaultIrqchipRoutes()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("40 routes")));
}

TEST_F(VmIrqTest, Ioeventfd) {
  IoEvent event{IoEvent::Space::kMmio, 0xd0000000, 4, 7};
  ASSERT_OK(vm_->AttachIoeventfd(event, 12));
  auto sent = fake_.LastArgument<struct kvm_ioeventfd>(KVM_IOEVENTFD);
  EXPECT_EQ(sent.addr, 0xd0000000u);
  EXPECT_EQ(sent.len, 4u);
  EXPECT_EQ(sent.fd, 12);
  EXPECT_EQ(sent.datamatch, 7u);
  EXPECT_EQ(sent.flags, uint32_t{KVM_IOEVENTFD_FLAG_DATAMATCH});
  event = {IoEvent::Space::kPio, 0x600, 2, {}};
  ASSERT_OK(vm_->DetachIoeventfd(event, 12));
  sent = fake_.LastArgument<struct kvm_ioeventfd>(KVM_IOEVENTFD);
  EXPECT_EQ(sent.flags,
            uint32_t{KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN});
  fake_.QueueErrno(KVM_IOEVENTFD, EEXIST);
  EXPECT_THAT(vm_->AttachIoeventfd(event, 12),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr("KVM_IOEVENTFD(pio 0x600+2, fd 12)")));
}

}  // namespace
}  // namespace cloister::kvm
