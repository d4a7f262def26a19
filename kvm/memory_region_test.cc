// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/memory_region.h"

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

TEST(MemoryRegion, DescribesItself) {
  MemoryRegion region;
  region.slot = Slot(1);
  region.gpa = memory::GuestAddress(0x100000);
  region.size = 0x10000;
  EXPECT_EQ(region.ToString(), "slot 1 at 0x100000 size 0x10000");
  region.readonly = true;
  region.log_dirty = true;
  region.guest_memfd = GuestMemfdBinding{7, 0x2000};
  EXPECT_EQ(region.ToString(),
            "slot 1 at 0x100000 size 0x10000 readonly log-dirty guest_memfd "
            "7+0x2000");
}

}  // namespace
}  // namespace cloister::kvm
