// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/pci_config_space.h"

#include <vector>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

using ::testing::Eq;
using ::testing::Optional;
using Kind = PciConfigSpace::BarKind;

constexpr PciIdentity kIdentity = {.vendor = 0x1af4,
                                   .device = 0x1042,
                                   .revision = 1,
                                   .class_code = 0x018000,
                                   .subsystem_vendor = 0x1af4,
                                   .subsystem = 0x1042};

template <typename T>
T Read(const PciConfigSpace& space, uint32_t offset) {
  uint8_t bytes[sizeof(T)];
  space.Read(offset, absl::MakeSpan(bytes));
  return base::LoadLe<T>(bytes);
}
template <typename T>
void Write(PciConfigSpace& space, uint32_t offset, T value) {
  uint8_t bytes[sizeof(T)];
  base::StoreLe<T>(bytes, value);
  space.Write(offset, bytes);
}

TEST(PciConfigSpaceTest, ShowsItsIdentityWhichGuestsCannotChange) {
  PciConfigSpace space(kIdentity);
  for (uint32_t offset = 0; offset < 256; offset += 4) {
    if (offset != PciConfigSpace::kCommand) Write<uint32_t>(space, offset, ~0u);
  }
  EXPECT_EQ(Read<uint32_t>(space, 0x00), 0x10421af4u);
  EXPECT_EQ(Read<uint32_t>(space, 0x08), 0x01800001u);
  EXPECT_EQ(Read<uint32_t>(space, 0x2c), 0x10421af4u);
  EXPECT_EQ(Read<uint8_t>(space, 0x0e), 0u);          // header type
  EXPECT_EQ(Read<uint32_t>(space, 0x10), 0u);         // no BAR
  EXPECT_EQ(Read<uint16_t>(space, 0x06) & 0x10, 0u);  // no capabilities
}

TEST(PciConfigSpaceTest, SizesAndMovesBars) {
  PciConfigSpace space(kIdentity);
  ASSERT_OK(space.AddBar(0, Kind::kIo, 256, 0x1200));
  ASSERT_OK(space.AddBar(2, Kind::kMemory32, 4096, 0xd0001000));
  EXPECT_THAT(space.BarAddress(0), Optional(Eq(0x1200u)));
  EXPECT_THAT(space.BarAddress(2), Optional(Eq(0xd0001000u)));
  EXPECT_EQ(space.BarAddress(1), std::nullopt);
  Write<uint32_t>(space, 0x10, ~0u);
  EXPECT_EQ(Read<uint32_t>(space, 0x10), 0xffffff01u);
  EXPECT_EQ(space.BarAddress(0), std::nullopt);
  Write<uint32_t>(space, 0x18, ~0u);
  EXPECT_EQ(Read<uint32_t>(space, 0x18), 0xfffff000u);
  EXPECT_EQ(space.BarAddress(2), std::nullopt);
  Write<uint32_t>(space, 0x10, 0x4567);
  EXPECT_THAT(space.BarAddress(0), Optional(Eq(0x4500u)));
  Write<uint32_t>(space, 0x10, 0);
  EXPECT_EQ(space.BarAddress(0), std::nullopt);
  Write<uint32_t>(space, 0x10, 0x10000);  // beyond the ports
  EXPECT_EQ(space.BarAddress(0), std::nullopt);
}

TEST(PciConfigSpaceTest, DecodesAsTheCommandRegisterSays) {
  PciConfigSpace space(kIdentity);
  ASSERT_OK(space.AddBar(0, Kind::kIo, 256, 0x1200));
  ASSERT_OK(space.AddBar(2, Kind::kMemory32, 4096, 0xd0001000));
  Write<uint16_t>(space, PciConfigSpace::kCommand, PciConfigSpace::kCommandIo);
  EXPECT_TRUE(space.BarAddress(0).has_value());
  EXPECT_FALSE(space.BarAddress(2).has_value());
  Write<uint16_t>(space, PciConfigSpace::kCommand, 0xffff);
  EXPECT_EQ(space.command(), 0x407);
  EXPECT_TRUE(space.BarAddress(2).has_value());
  Write<uint8_t>(space, PciConfigSpace::kCommand, 0);
  EXPECT_FALSE(space.BarAddress(0).has_value());
}

TEST(PciConfigSpaceTest, RefusesBarsThatNoHardwareHas) {
  PciConfigSpace space(kIdentity);
  for (uint32_t size : {0u, 2u, 3u, 255u}) {
    EXPECT_FALSE(space.AddBar(0, Kind::kIo, size, 0).ok()) << size;
  }
  EXPECT_FALSE(space.AddBar(0, Kind::kIo, 256, 0x1280).ok());
  EXPECT_FALSE(space.AddBar(0, Kind::kIo, 256, 0x10000).ok());
  EXPECT_FALSE(space.AddBar(0, Kind::kMemory32, 8, 0).ok());
  EXPECT_FALSE(space.AddBar(6, Kind::kIo, 256, 0).ok());
  EXPECT_FALSE(space.AddBar(-1, Kind::kIo, 256, 0).ok());
}

TEST(PciConfigSpaceTest, ChainsCapabilities) {
  PciConfigSpace space(kIdentity);
  const std::vector<uint8_t> first = {0xaa, 0xbb, 0xcc};
  const std::vector<uint8_t> second = {0x11, 0x22};
  const std::vector<uint8_t> writable = {0x00, 0x0f};
  ASSERT_OK_AND_ASSIGN(uint32_t at, space.AddCapability(9, first));
  ASSERT_OK_AND_ASSIGN(uint32_t next,
                       space.AddCapability(0x11, second, writable));
  EXPECT_EQ(Read<uint8_t>(space, 0x34), at);
  EXPECT_EQ(Read<uint32_t>(space, at), 0xbbaa0009u | next << 8);
  EXPECT_EQ(next % 4, 0u);
  EXPECT_EQ(Read<uint8_t>(space, next + 1), 0u);  // the last
  EXPECT_NE(Read<uint16_t>(space, 0x06) & 0x10, 0);
  Write<uint32_t>(space, next, ~0u);
  EXPECT_EQ(Read<uint32_t>(space, next), 0x2f110011u);
}

TEST(PciConfigSpaceTest, HasRoomForSoManyCapabilities) {
  PciConfigSpace space(kIdentity);
  const std::vector<uint8_t> body(46);
  for (int i = 0; i < 4; ++i) EXPECT_OK(space.AddCapability(9, body));
  EXPECT_THAT(space.AddCapability(9, {}),
              base::StatusIs(absl::StatusCode::kResourceExhausted));
  PciConfigSpace other(kIdentity);
  EXPECT_FALSE(other.AddCapability(9, body, std::vector<uint8_t>(47)).ok());
}

}  // namespace
}  // namespace cloister::devices
