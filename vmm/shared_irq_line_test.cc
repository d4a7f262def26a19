// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/shared_irq_line.h"

#include "cloister/devices/fake_irq_line.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

TEST(SharedIrqLineTest, IsAssertedWhileAnyEndIs) {
  devices::FakeIrqLine line;
  SharedIrqLine shared(line);
  devices::IrqLine& one = shared.Add();
  devices::IrqLine& other = shared.Add();
  one.SetLevel(true);
  other.SetLevel(true);
  one.SetLevel(false);
  EXPECT_TRUE(line.level());
  other.SetLevel(false);
  EXPECT_FALSE(line.level());
  EXPECT_EQ(line.edges(), 1);
  EXPECT_EQ(line.redundant(), 0);
  other.Pulse();
  EXPECT_EQ(line.edges(), 2);
  EXPECT_FALSE(line.level());
}

}  // namespace
}  // namespace cloister::vmm
