// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/vm_type.h"

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

TEST(VmType, HasNames) {
  EXPECT_EQ(VmTypeName(VmType::kDefault), "default");
  EXPECT_EQ(VmTypeName(VmType::kSwProtected), "sw-protected");
  EXPECT_EQ(VmTypeName(VmType::kSev), "sev");
  EXPECT_EQ(VmTypeName(VmType::kSevEs), "sev-es");
  EXPECT_EQ(VmTypeName(VmType::kSevSnp), "sev-snp");
  EXPECT_EQ(VmTypeName(VmType::kTdx), "tdx");
  EXPECT_EQ(VmTypeName(static_cast<VmType>(31)), "unknown");
}

}  // namespace
}  // namespace cloister::kvm
