// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/capability.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

// Numbers as in the kernel's include/uapi/linux/kvm.h.
TEST(Capability, NumbersAreTheKernels) {
  EXPECT_EQ(CapabilityNumber(Capability::kIrqchip), 0);
  EXPECT_EQ(CapabilityNumber(Capability::kUserMemory), 3);
  EXPECT_EQ(CapabilityNumber(Capability::kMemorySlots), 10);
  EXPECT_EQ(CapabilityNumber(Capability::kMaxVcpus), 66);
  EXPECT_EQ(CapabilityNumber(Capability::kTscDeadlineTimer), 72);
  EXPECT_EQ(CapabilityNumber(Capability::kSplitIrqchip), 121);
  EXPECT_EQ(CapabilityNumber(Capability::kX2apicApi), 129);
  EXPECT_EQ(CapabilityNumber(Capability::kImmediateExit), 136);
  EXPECT_EQ(CapabilityNumber(Capability::kUserSpaceMsr), 188);
  EXPECT_EQ(CapabilityNumber(Capability::kExitHypercall), 201);
  EXPECT_EQ(CapabilityNumber(Capability::kUserMemory2), 231);
  EXPECT_EQ(CapabilityNumber(Capability::kMemoryAttributes), 233);
  EXPECT_EQ(CapabilityNumber(Capability::kGuestMemfd), 234);
  EXPECT_EQ(CapabilityNumber(Capability::kVmTypes), 235);
  EXPECT_EQ(CapabilityNumber(Capability::kPreFaultMemory), 236);
  EXPECT_EQ(CapabilityNumber(Capability::kGuestMemfdFlags), 244);
}

TEST(Capability, EachHasItsOwnNameAndNumber) {
  std::set<std::string> names;
  std::set<int> numbers;
  for (Capability capability : AllCapabilities()) {
    std::string name(CapabilityName(capability));
    EXPECT_EQ(name.substr(0, 8), "KVM_CAP_") << name;
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_TRUE(numbers.insert(CapabilityNumber(capability)).second) << name;
  }
  EXPECT_EQ(CapabilityName(Capability::kGuestMemfd), "KVM_CAP_GUEST_MEMFD");
  EXPECT_GE(names.size(), 40u);
}

}  // namespace
}  // namespace cloister::kvm
