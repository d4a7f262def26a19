// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_policy.h"

#include <optional>

#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

// What nobody asked for is not shown: a feature that becomes a default here is
// a guest's reach into the host that somebody has to have decided.
TEST(CpuidPolicyTest, TheDefaultShowsNothingBeyondWhatIsSafe) {
  const CpuidPolicy policy;
  EXPECT_FALSE(policy.nested_virtualization);
  EXPECT_FALSE(policy.pmu);
  EXPECT_FALSE(policy.tsc_deadline) << "only once KVM was asked";
  EXPECT_FALSE(policy.msi_ext_dest_id);
  EXPECT_FALSE(policy.map_gpa_range);
  EXPECT_EQ(policy.c_bit, std::nullopt);
  EXPECT_EQ(policy.hidden_kvm_features, 0u);
  EXPECT_TRUE(policy.xsave);
  EXPECT_TRUE(policy.x2apic);
}

}  // namespace
}  // namespace cloister::vcpu
