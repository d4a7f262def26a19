// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/host_cpuid_policy.h"

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/system.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using kvm::Capability;

bool TscDeadline(int answer) {
  kvm::FakeKvm fake;
  fake.SetCapability(Capability::kTscDeadlineTimer, answer);
  fake.SetVmCapability(Capability::kTscDeadlineTimer, answer);
  auto system = kvm::System::Open(fake);
  EXPECT_OK(system);
  auto vm = system->CreateVm(kvm::VmType::kDefault);
  EXPECT_OK(vm);
  return HostCpuidPolicy(*vm).tsc_deadline;
}

TEST(HostCpuidPolicyTest, ShowsTheTimerThatKvmHas) {
  EXPECT_TRUE(TscDeadline(1));
}

TEST(HostCpuidPolicyTest, HidesTheTimerThatKvmLacks) {
  EXPECT_FALSE(TscDeadline(0));
  EXPECT_FALSE(TscDeadline(-1));
}

// All else is the default: a new field must be thought about here.
TEST(HostCpuidPolicyTest, ChangesNothingElse) {
  kvm::FakeKvm fake;
  ASSERT_OK_AND_ASSIGN(auto system, kvm::System::Open(fake));
  ASSERT_OK_AND_ASSIGN(auto vm, system.CreateVm(kvm::VmType::kDefault));
  const CpuidPolicy policy = HostCpuidPolicy(vm);
  const CpuidPolicy standard;
  EXPECT_EQ(policy.nested_virtualization, standard.nested_virtualization);
  EXPECT_EQ(policy.pmu, standard.pmu);
  EXPECT_EQ(policy.xsave, standard.xsave);
  EXPECT_EQ(policy.x2apic, standard.x2apic);
  EXPECT_EQ(policy.msi_ext_dest_id, standard.msi_ext_dest_id);
  EXPECT_EQ(policy.c_bit, standard.c_bit);
  EXPECT_EQ(policy.map_gpa_range, standard.map_gpa_range);
}

}  // namespace
}  // namespace cloister::vcpu
