// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/system_ports.h"

#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

uint8_t In(BusDevice& device) {
  uint8_t value = 0;
  device.Read(0, absl::MakeSpan(&value, 1));
  return value;
}
void Out(BusDevice& device, uint8_t value) {
  device.Write(0, absl::MakeConstSpan(&value, 1));
}

TEST(Port61Test, RefreshTogglesAndTimerOutputEndsWaits) {
  Port61 port;
  const uint8_t first = In(port), second = In(port), third = In(port);
  EXPECT_NE(first & 0x10, second & 0x10);
  EXPECT_EQ(first & 0x10, third & 0x10);
  EXPECT_TRUE(first & 0x20);
  EXPECT_TRUE(second & 0x20);
}

TEST(Port61Test, StoresGateAndSpeakerAlone) {
  Port61 port;
  Out(port, 0xff);
  EXPECT_EQ(In(port) & 0xcf, 0x03);
  Out(port, 0x01);
  EXPECT_EQ(In(port) & 0xcf, 0x01);
}

TEST(Port92Test, A20StaysOnAndResetIsAnEdge) {
  int resets = 0;
  Port92 port([&] { ++resets; });
  EXPECT_TRUE(In(port) & 0x02);
  Out(port, 0x00);
  EXPECT_TRUE(In(port) & 0x02);
  EXPECT_EQ(resets, 0);
  Out(port, 0x03);
  EXPECT_EQ(resets, 1);
  Out(port, 0x03);
  EXPECT_EQ(resets, 1);
  Out(port, 0x02);
  Out(port, 0x01);
  EXPECT_EQ(resets, 2);
}

}  // namespace
}  // namespace cloister::devices
