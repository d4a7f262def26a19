// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/interrupt_status.h"

#include "cloister/devices/fake_irq_line.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

TEST(InterruptStatusTest, AssertsTheLineWhileABitIsSet) {
  FakeIrqLine line;
  InterruptStatus status(line);
  status.Raise(InterruptStatus::kQueue);
  status.Raise(InterruptStatus::kQueue);
  status.Raise(InterruptStatus::kConfig);
  EXPECT_TRUE(line.level());
  EXPECT_EQ(line.edges(), 1);
  status.Clear(InterruptStatus::kQueue);
  EXPECT_TRUE(line.level());
  EXPECT_EQ(status.bits(), InterruptStatus::kConfig);
  status.Clear(0xff);
  EXPECT_FALSE(line.level());
  EXPECT_EQ(line.redundant(), 0);
}

TEST(InterruptStatusTest, ForgetsWhatWasRead) {
  FakeIrqLine line;
  InterruptStatus status(line);
  status.Raise(3);
  EXPECT_EQ(status.ReadAndClear(), 3);
  EXPECT_FALSE(line.level());
  EXPECT_EQ(status.ReadAndClear(), 0);
  EXPECT_EQ(line.redundant(), 0);
}

TEST(InterruptStatusTest, KeepsBitsUnderTheMask) {
  FakeIrqLine line;
  InterruptStatus status(line);
  status.SetMasked(true);
  status.Raise(1);
  EXPECT_FALSE(line.level());
  EXPECT_EQ(status.bits(), 1);
  status.SetMasked(false);
  EXPECT_TRUE(line.level());
  status.SetMasked(true);
  EXPECT_FALSE(line.level());
}

}  // namespace
}  // namespace cloister::devices::virtio
