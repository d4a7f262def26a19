// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/probe.h"

#include <cerrno>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/fault_kvm.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using ::testing::HasSubstr;

TEST(Probe, ReportsARichHost) {
  FakeKvm fake;
  ASSERT_OK_AND_ASSIGN(System system, System::Open(fake));
  CapabilityReport report = Probe(system);
  EXPECT_EQ(report.api_version, 12);
  EXPECT_EQ(report.max_vcpus, 1024);
  EXPECT_EQ(report.max_vcpu_id, 4096);
  EXPECT_EQ(report.memory_slots, 32764);
  EXPECT_EQ(report.vm_types_mask, 3u);
  EXPECT_TRUE(report.irqchip && report.split_irqchip && report.pit2);
  EXPECT_TRUE(report.irqfd && report.irqfd_resample && report.ioeventfd);
  EXPECT_TRUE(report.user_memory2 && report.guest_memfd);
  EXPECT_EQ(report.guest_memfd_flags, 3u);
  EXPECT_EQ(report.memory_attributes_mask, 8u);
  EXPECT_TRUE(report.map_gpa_range_exits());
  EXPECT_TRUE(report.default_vm);
  EXPECT_TRUE(report.sw_protected_vm);
  EXPECT_EQ(report.sw_protected_vm_error, "");
}

TEST(Probe, ReportsAPlainHost) {
  FakeKvm fake;
  for (Capability capability : AllCapabilities()) {
    fake.SetCapability(capability, 0);
  }
  ASSERT_OK_AND_ASSIGN(System system, System::Open(fake));
  CapabilityReport report = Probe(system);
  EXPECT_EQ(report.max_vcpus, 1);
  EXPECT_FALSE(report.irqchip || report.split_irqchip || report.guest_memfd);
  EXPECT_FALSE(report.map_gpa_range_exits());
  EXPECT_TRUE(report.default_vm);
  EXPECT_FALSE(report.sw_protected_vm);
  EXPECT_THAT(report.sw_protected_vm_error, HasSubstr("sw-protected"));
  EXPECT_EQ(report.sw_protected_guest_memfd_flags, 0u);
}

// The answer of the device is not that of the VM.
TEST(Probe, AsksTheVmAboutGuestMemfdFlags) {
  FakeKvm fake;
  fake.SetCapability(Capability::kGuestMemfdFlags, 3);
  fake.SetVmCapability(Capability::kGuestMemfdFlags, 1);
  ASSERT_OK_AND_ASSIGN(System system, System::Open(fake));
  EXPECT_EQ(Probe(system).guest_memfd_flags, 1u);
}

TEST(Probe, SurvivesEveryFailure) {
  FakeKvm fake;
  FaultKvm faults(fake);
  ASSERT_OK_AND_ASSIGN(System system, System::Open(faults));
  faults.Reset();
  Probe(system);
  uint64_t calls = faults.calls();
  ASSERT_GT(calls, 20u);
  for (uint64_t nth = 1; nth <= calls; ++nth) {
    faults.Reset();
    faults.FailCall(nth, ENOMEM);
    CapabilityReport report = Probe(system);
    EXPECT_TRUE(faults.Fired());
    EXPECT_EQ(report.default_vm, report.default_vm_error.empty());
    EXPECT_EQ(report.sw_protected_vm, report.sw_protected_vm_error.empty());
  }
}

}  // namespace
}  // namespace cloister::kvm
