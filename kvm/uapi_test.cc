// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/uapi.h"

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

// The numbers that a C compiler gets from the kernel's own header. A wrong
// struct size anywhere makes a different number, and KVM answers ENOTTY.
TEST(Uapi, IoctlNumbersAreTheKernels) {
  EXPECT_EQ(KVM_GET_API_VERSION, 0xae00u);
  EXPECT_EQ(KVM_GET_MSR_INDEX_LIST, 0xc004ae02u);
  EXPECT_EQ(KVM_GET_SUPPORTED_CPUID, 0xc008ae05u);
  EXPECT_EQ(KVM_GET_MSR_FEATURE_INDEX_LIST, 0xc004ae0au);
  EXPECT_EQ(KVM_SET_USER_MEMORY_REGION, 0x4020ae46u);
  EXPECT_EQ(KVM_SET_USER_MEMORY_REGION2, 0x40a0ae49u);
  EXPECT_EQ(KVM_SET_GSI_ROUTING, 0x4008ae6au);
  EXPECT_EQ(KVM_GET_MSRS, 0xc008ae88u);
  EXPECT_EQ(KVM_SET_MSRS, 0x4008ae89u);
  EXPECT_EQ(KVM_SET_CPUID2, 0x4008ae90u);
  EXPECT_EQ(KVM_GET_CPUID2, 0xc008ae91u);
  EXPECT_EQ(KVM_GET_XSAVE, 0x9000aea4u);
  EXPECT_EQ(KVM_SET_MEMORY_ATTRIBUTES, 0x4020aed2u);
  EXPECT_EQ(KVM_CREATE_GUEST_MEMFD, 0xc040aed4u);
  EXPECT_EQ(KVM_PRE_FAULT_MEMORY, 0xc040aed5u);
}

TEST(Uapi, ListEntriesFollowTheirCounts) {
  EXPECT_EQ(offsetof(struct kvm_msrs, entries), 8u);
  EXPECT_EQ(offsetof(struct kvm_msr_list, indices), 4u);
  EXPECT_EQ(offsetof(struct kvm_cpuid2, entries), 8u);
  EXPECT_EQ(offsetof(struct kvm_irq_routing, entries), 8u);
}

TEST(Uapi, SecondMemoryRegionStartsLikeTheFirst) {
  using First = struct kvm_userspace_memory_region;
  using Second = struct kvm_userspace_memory_region2;
  EXPECT_EQ(offsetof(First, slot), offsetof(Second, slot));
  EXPECT_EQ(offsetof(First, flags), offsetof(Second, flags));
  EXPECT_EQ(offsetof(First, guest_phys_addr),
            offsetof(Second, guest_phys_addr));
  EXPECT_EQ(offsetof(First, memory_size), offsetof(Second, memory_size));
  EXPECT_EQ(offsetof(First, userspace_addr), offsetof(Second, userspace_addr));
  EXPECT_EQ(offsetof(Second, guest_memfd_offset), 32u);
  EXPECT_EQ(offsetof(Second, guest_memfd), 40u);
}

}  // namespace
}  // namespace cloister::kvm
