// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/pci_bar.h"

#include <memory>

#include "cloister/base/log.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

using ::testing::Eq;
using ::testing::Optional;

class Byte : public BusDevice {
 public:
  explicit Byte(uint8_t value) : value_(value) {}
  absl::string_view name() const override { return "byte"; }
  void Read(uint64_t, absl::Span<uint8_t> data) override { data[0] = value_; }
  void Write(uint64_t, absl::Span<const uint8_t>) override {}

 private:
  const uint8_t value_;
};

class PciBarTest : public ::testing::Test {
 protected:
  uint8_t At(uint64_t address) {
    uint8_t byte = 0;
    bus_.Read(address, absl::MakeSpan(&byte, 1));
    return byte;
  }

  Bus bus_{Bus::Space::kPio, base::Logger::Null()};
  std::shared_ptr<Byte> device_ = std::make_shared<Byte>(1);
  PciBar bar_{bus_, 256};
};

TEST_F(PciBarTest, ComesMovesAndGoes) {
  EXPECT_TRUE(bar_.Update(0x1000, device_));
  EXPECT_FALSE(bar_.Update(0x1000, device_));
  EXPECT_EQ(At(0x10ff), 1);
  EXPECT_TRUE(bar_.Update(0x2000, device_));
  EXPECT_EQ(At(0x1000), 0xff);
  EXPECT_EQ(At(0x2000), 1);
  EXPECT_TRUE(bar_.Update(std::nullopt, device_));
  EXPECT_EQ(At(0x2000), 0xff);
  EXPECT_EQ(bar_.address(), std::nullopt);
}

TEST_F(PciBarTest, NeverTakesTheOthersPlace) {
  ASSERT_OK(bus_.Insert(0x3000, 16, std::make_shared<Byte>(2)));
  EXPECT_TRUE(bar_.Update(0x1000, device_));
  EXPECT_TRUE(bar_.Update(0x3000, device_));  // off the bus
  EXPECT_EQ(bar_.conflicts(), 1u);
  EXPECT_EQ(bar_.address(), std::nullopt);
  EXPECT_EQ(At(0x3000), 2);
  EXPECT_EQ(At(0x1000), 0xff);
  EXPECT_TRUE(bar_.Update(0x1000, device_));
  EXPECT_THAT(bar_.address(), Optional(Eq(0x1000u)));
  EXPECT_EQ(At(0x1000), 1);
}

TEST_F(PciBarTest, StaysOffTheBusWhenThePlaceIsTaken) {
  ASSERT_OK(bus_.Insert(0x3000, 16, std::make_shared<Byte>(2)));
  EXPECT_FALSE(bar_.Update(0x3000, device_));
  EXPECT_EQ(bar_.conflicts(), 1u);
}

}  // namespace
}  // namespace cloister::devices
