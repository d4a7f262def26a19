// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/acpi_pm.h"

#include <array>

#include "cloister/devices/fake_irq_line.h"
#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

class AcpiPmTest : public ::testing::Test {
 protected:
  AcpiPm::Options MakeOptions() {
    AcpiPm::Options options;
    options.clock = [this] { return now_; };
    options.on_power_off = [this] { ++power_offs_; };
    options.on_reset = [this] { ++resets_; };
    return options;
  }
  template <typename T>
  T In(uint64_t offset) {
    std::array<uint8_t, sizeof(T)> bytes = {};
    pm_.Read(offset, absl::MakeSpan(bytes));
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      value = static_cast<T>(value | static_cast<T>(bytes[i]) << (8 * i));
    }
    return value;
  }
  template <typename T>
  void Out(uint64_t offset, T value) {
    std::array<uint8_t, sizeof(T)> bytes;
    for (size_t i = 0; i < sizeof(T); ++i) {
      bytes[i] = static_cast<uint8_t>(value >> (8 * i));
    }
    pm_.Write(offset, bytes);
  }

  std::chrono::nanoseconds now_ = std::chrono::hours(50);
  int power_offs_ = 0;
  int resets_ = 0;
  FakeIrqLine sci_;
  AcpiPm pm_{MakeOptions(), sci_};
};

constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint64_t kStatus = AcpiPm::kPm1EventOffset;
constexpr uint64_t kEnable = AcpiPm::kPm1EventOffset + 2;

TEST_F(AcpiPmTest, PowerButtonRaisesSciUntilAcknowledged) {
  Out<uint16_t>(kEnable, kPowerButton);
  EXPECT_FALSE(sci_.level());
  EXPECT_TRUE(pm_.PressPowerButton());
  EXPECT_TRUE(sci_.level());
  EXPECT_EQ(In<uint16_t>(kStatus), kPowerButton);
  Out<uint16_t>(kStatus, static_cast<uint16_t>(~kPowerButton));
  EXPECT_TRUE(sci_.level());
  Out<uint16_t>(kStatus, kPowerButton);
  EXPECT_EQ(In<uint16_t>(kStatus), 0);
  EXPECT_FALSE(sci_.level());
  EXPECT_TRUE(pm_.PressPowerButton());
  EXPECT_EQ(sci_.edges(), 2);
  EXPECT_EQ(sci_.redundant(), 0);
}

TEST_F(AcpiPmTest, PressWaitsForTheGuestToEnableIt) {
  EXPECT_FALSE(pm_.PressPowerButton());
  EXPECT_FALSE(sci_.level());
  Out<uint16_t>(kEnable, kPowerButton);
  EXPECT_TRUE(sci_.level());
  Out<uint16_t>(kEnable, 0);
  EXPECT_FALSE(sci_.level());
}

TEST_F(AcpiPmTest, SciEnableAlwaysReadsAsSet) {
  EXPECT_EQ(In<uint16_t>(AcpiPm::kPm1ControlOffset) & 1, 1);
  Out<uint16_t>(AcpiPm::kPm1ControlOffset, 0);
  EXPECT_EQ(In<uint16_t>(AcpiPm::kPm1ControlOffset) & 1, 1);
}

TEST_F(AcpiPmTest, OnlyS5WithSleepEnablePowersOff) {
  const uint64_t control = AcpiPm::kPm1ControlOffset;
  Out<uint16_t>(control, 5 << 10);
  EXPECT_EQ(power_offs_, 0);
  Out<uint16_t>(control, 1 << 13 | 3 << 10);
  EXPECT_EQ(power_offs_, 0);
  Out<uint16_t>(control, 1 << 13 | 5 << 10);
  EXPECT_EQ(power_offs_, 1);
  // SLP_EN is write-only, SLP_TYP is not.
  EXPECT_EQ(In<uint16_t>(control), 5 << 10 | 1);
  Out<uint8_t>(control + 1, 1 << 5 | 5 << 2);
  EXPECT_EQ(power_offs_, 2);
  EXPECT_EQ(resets_, 0);
}

TEST_F(AcpiPmTest, ResetRegisterWantsItsValue) {
  Out<uint8_t>(AcpiPm::kResetOffset, 0);
  Out<uint8_t>(AcpiPm::kResetOffset, 0xfe);
  EXPECT_EQ(resets_, 0);
  Out<uint8_t>(AcpiPm::kResetOffset, 1);
  EXPECT_EQ(resets_, 1);
  EXPECT_EQ(power_offs_, 0);
}

TEST_F(AcpiPmTest, TimerCountsAtItsRateAndWrapsAt24Bits) {
  EXPECT_EQ(In<uint32_t>(AcpiPm::kPmTimerOffset), 0u);
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(In<uint32_t>(AcpiPm::kPmTimerOffset), 3579545u);
  now_ += std::chrono::milliseconds(100);
  EXPECT_EQ(In<uint32_t>(AcpiPm::kPmTimerOffset), 3937499u);
  now_ += std::chrono::seconds(4) - std::chrono::milliseconds(100);
  EXPECT_EQ(In<uint32_t>(AcpiPm::kPmTimerOffset), 5u * 3579545 - (1u << 24));
  now_ += std::chrono::hours(24 * 365 * 20);
  const uint64_t ticks = (5 + 20ull * 365 * 86400) * 3579545;
  EXPECT_EQ(In<uint32_t>(AcpiPm::kPmTimerOffset), ticks & 0xffffff);
}

TEST_F(AcpiPmTest, TimerMayHave32Bits) {
  AcpiPm::Options options = MakeOptions();
  options.timer_32_bit = true;
  AcpiPm pm(options, sci_);
  now_ += std::chrono::seconds(10);
  std::array<uint8_t, 4> bytes;
  pm.Read(AcpiPm::kPmTimerOffset, absl::MakeSpan(bytes));
  EXPECT_EQ(bytes[3], 35795450 >> 24);
}

TEST_F(AcpiPmTest, GpeStatusAndEnable) {
  const uint64_t status = AcpiPm::kGpe0Offset;
  pm_.RaiseGpe(9);
  pm_.RaiseGpe(16);
  pm_.RaiseGpe(-1);
  EXPECT_EQ(In<uint16_t>(status), 1 << 9);
  EXPECT_FALSE(sci_.level());
  Out<uint16_t>(status + 2, 1 << 9);
  EXPECT_TRUE(sci_.level());
  EXPECT_EQ(In<uint16_t>(status + 2), 1 << 9);
  Out<uint16_t>(status, 1 << 9);
  EXPECT_FALSE(sci_.level());
}

TEST_F(AcpiPmTest, OddWidthsCoverNeighbouringRegisters) {
  // Status (ones clear) and enable in one go.
  Out<uint32_t>(kStatus, uint32_t{kPowerButton} << 16 | 0xffff);
  EXPECT_EQ(In<uint16_t>(kEnable), kPowerButton);
  EXPECT_TRUE(pm_.PressPowerButton());
  EXPECT_EQ(In<uint64_t>(kStatus),
            uint64_t{1} << 32 | uint64_t{kPowerButton} << 16 | kPowerButton);
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(In<uint16_t>(AcpiPm::kPmTimerOffset + 1), 3579545 >> 8 & 0xffff);
  Out<uint64_t>(AcpiPm::kPmTimerOffset, ~uint64_t{0});
  EXPECT_EQ(In<uint32_t>(AcpiPm::kPmTimerOffset), 3579545u);
}

TEST_F(AcpiPmTest, CallbacksMayUseTheDevice) {
  AcpiPm* device = nullptr;
  AcpiPm::Options options = MakeOptions();
  bool pressed = false;
  options.on_power_off = [&] {
    device->PressPowerButton();
    pressed = true;
  };
  AcpiPm pm(options, sci_);
  device = &pm;
  const std::array<uint8_t, 2> sleep = {0, 1 << 5 | 5 << 2};
  pm.Write(AcpiPm::kPm1ControlOffset, sleep);
  EXPECT_TRUE(pressed);
}

}  // namespace
}  // namespace cloister::devices
