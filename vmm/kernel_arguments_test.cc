// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/kernel_arguments.h"

#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

TEST(KernelArgumentsTest, FindsWordsAndValuesInLists) {
  for (const char* text : {"pci=off", "quiet pci=off", "pci=off\tquiet",
                           "a\npci=off", "pci=nomsi,off", "pci=off,nomsi"}) {
    EXPECT_TRUE(HasArgument(text, "pci=off")) << text;
  }
  for (const char* text : {"", "pci", "pci=", "pci=offline", "xpci=off",
                           "pci=off2,nomsi", "pci = off", "off"}) {
    EXPECT_FALSE(HasArgument(text, "pci=off")) << text;
  }
  EXPECT_TRUE(HasArgument("a quiet", "quiet"));
  EXPECT_FALSE(HasArgument("quieter", "quiet"));
}

}  // namespace
}  // namespace cloister::vmm
