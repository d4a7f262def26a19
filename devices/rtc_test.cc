// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/rtc.h"

#include <array>

#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

constexpr int64_t kNow = 1709213696;  // Thu 2024-02-29 13:34:56 UTC.

class RtcTest : public ::testing::Test {
 protected:
  Rtc::Options MakeOptions() {
    Rtc::Options options;
    options.unix_time = [this] { return now_; };
    options.ram_below_4gib = uint64_t{3} << 30;
    options.ram_above_4gib = (uint64_t{5} << 30) + 0x30000;
    return options;
  }
  uint8_t In(uint8_t index) { return InFrom(rtc_, index); }
  static uint8_t InFrom(Rtc& rtc, uint8_t index) {
    uint8_t value = 0;
    rtc.Write(0, absl::MakeConstSpan(&index, 1));
    rtc.Read(1, absl::MakeSpan(&value, 1));
    return value;
  }
  void Out(uint8_t index, uint8_t value) {
    rtc_.Write(0, absl::MakeConstSpan(&index, 1));
    rtc_.Write(1, absl::MakeConstSpan(&value, 1));
  }

  int64_t now_ = kNow;
  Rtc rtc_{MakeOptions()};
};

TEST_F(RtcTest, TellsTheTimeInBcdByDefault) {
  EXPECT_EQ(In(0x00), 0x56);
  EXPECT_EQ(In(0x02), 0x34);
  EXPECT_EQ(In(0x04), 0x13);
  EXPECT_EQ(In(0x06), 5);  // Thursday; Sunday is 1.
  EXPECT_EQ(In(0x07), 0x29);
  EXPECT_EQ(In(0x08), 0x02);
  EXPECT_EQ(In(0x09), 0x24);
  EXPECT_EQ(In(0x32), 0x20);
  now_ += 4;
  EXPECT_EQ(In(0x00), 0x00);
  EXPECT_EQ(In(0x02), 0x35);
}

TEST_F(RtcTest, BinaryAndTwelveHourModes) {
  Out(0x0b, 0x06);
  EXPECT_EQ(In(0x00), 56);
  EXPECT_EQ(In(0x04), 13);
  EXPECT_EQ(In(0x09), 24);
  Out(0x0b, 0x04);
  EXPECT_EQ(In(0x04), 0x80 | 1);
  Out(0x0b, 0x00);
  now_ = kNow - 13 * 3600;  // Just after midnight.
  EXPECT_EQ(In(0x04), 0x12);
  now_ += 12 * 3600;
  EXPECT_EQ(In(0x04), 0x92);
}

TEST_F(RtcTest, UpdateInProgressIsNeverSeen) {
  Out(0x0a, 0xff);
  for (int i = 0; i < 100; ++i) {
    now_ += 1;
    EXPECT_FALSE(In(0x0a) & 0x80);
  }
  EXPECT_EQ(In(0x0a), 0x7f);
}

TEST_F(RtcTest, GuestSetsItsClockAsLinuxDoes) {
  Out(0x0b, 0x82);  // SET: stop.
  now_ += 100;
  EXPECT_EQ(In(0x00), 0x56);
  Out(0x09, 0x99);
  Out(0x32, 0x19);
  Out(0x08, 0x12);
  Out(0x07, 0x31);
  Out(0x04, 0x23);
  Out(0x02, 0x59);
  Out(0x00, 0x58);
  EXPECT_EQ(In(0x07), 0x31);
  Out(0x0b, 0x02);
  EXPECT_EQ(In(0x00), 0x58);
  EXPECT_EQ(In(0x06), 6);  // A Friday.
  now_ += 2;
  EXPECT_EQ(In(0x00), 0x00);
  EXPECT_EQ(In(0x09), 0x00);
  EXPECT_EQ(In(0x32), 0x20);
  EXPECT_EQ(In(0x06), 7);
}

TEST_F(RtcTest, ASingleFieldMovesTheRunningClock) {
  Out(0x04, 0x15);
  EXPECT_EQ(In(0x04), 0x15);
  EXPECT_EQ(In(0x02), 0x34);
  now_ += 3600;
  EXPECT_EQ(In(0x04), 0x16);
}

TEST_F(RtcTest, ReadOnlyAndStoredRegisters) {
  Out(0x0c, 0xff);
  Out(0x0d, 0x00);
  EXPECT_EQ(In(0x0c), 0);
  EXPECT_EQ(In(0x0d), 0x80);
  for (uint8_t index : {0x01, 0x03, 0x05, 0x0f, 0x40, 0x7f}) {
    Out(index, index ^ 0x5a);
    EXPECT_EQ(In(index), index ^ 0x5a);
  }
  // Bit 7 of the index is the NMI mask.
  EXPECT_EQ(In(0x80 | 0x7f), 0x7f ^ 0x5a);
}

TEST_F(RtcTest, MemorySizes) {
  auto word = [&](uint8_t index) { return In(index) | In(index + 1) << 8; };
  EXPECT_EQ(word(0x15), 640);
  EXPECT_EQ(word(0x17), 0xffff);
  EXPECT_EQ(word(0x30), 0xffff);
  EXPECT_EQ(word(0x34), (3072 - 16) * 16);
  EXPECT_EQ(word(0x5b) | In(0x5d) << 16, 5 * 16384 + 3);

  Rtc::Options small;
  small.ram_below_4gib = 8 << 20;
  Rtc rtc(small);
  EXPECT_EQ(InFrom(rtc, 0x17) | InFrom(rtc, 0x18) << 8, 7 * 1024);
  EXPECT_EQ(InFrom(rtc, 0x34), 0);
}

TEST_F(RtcTest, NonsenseTimesAreHarmless) {
  for (int mode = 0; mode < 256; mode += 2) {
    Out(0x0b, static_cast<uint8_t>(mode));
    for (uint8_t index : {0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32}) {
      Out(index, static_cast<uint8_t>(0xff - mode / 16));
      In(index);
    }
  }
  Out(0x0b, 0x02);
  EXPECT_LE(In(0x00), 0x59);
  EXPECT_LE(In(0x08), 0x12);
}

TEST_F(RtcTest, WideAccessesCoverBothPorts) {
  const std::array<uint8_t, 2> write = {0x40, 0x77};
  rtc_.Write(0, write);
  std::array<uint8_t, 2> read = {};
  rtc_.Read(0, absl::MakeSpan(read));
  EXPECT_EQ(read, (std::array<uint8_t, 2>{0xff, 0x77}));
}

}  // namespace
}  // namespace cloister::devices
