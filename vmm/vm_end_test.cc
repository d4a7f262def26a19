// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/vm_end.h"

#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using Kind = VmEnd::Kind;

TEST(VmEndTest, AnEndIsAGoodOneUnlessSaidOtherwise) {
  const VmEnd end;
  EXPECT_EQ(end.kind, Kind::kStopped);
  EXPECT_TRUE(end.status.ok());
  EXPECT_TRUE(end.registers.empty());
}

// People and the API's clients read these.
TEST(VmEndTest, EveryKindHasItsName) {
  EXPECT_EQ(VmEndName(Kind::kPowerOff), "power off");
  EXPECT_EQ(VmEndName(Kind::kReset), "reset");
  EXPECT_EQ(VmEndName(Kind::kStopped), "stopped");
  EXPECT_EQ(VmEndName(Kind::kTripleFault), "triple fault");
  EXPECT_EQ(VmEndName(Kind::kNotVerified), "launch not verified");
  EXPECT_EQ(VmEndName(Kind::kConversion), "conversion refused");
  EXPECT_EQ(VmEndName(Kind::kInternalError), "internal error");
  EXPECT_EQ(VmEndName(static_cast<Kind>(99)), "unknown");
}

}  // namespace
}  // namespace cloister::vmm
