// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/boot_marker.h"

#include <array>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::devices {
namespace {

using Clock = std::chrono::steady_clock;

TEST(BootMarkerTest, ReportsEachValueOnceWithItsTime) {
  std::vector<uint8_t> values;
  Clock::time_point last;
  BootMarker marker({-1, [&](uint8_t value, Clock::time_point when) {
                       values.push_back(value);
                       last = when;
                     }});
  const Clock::time_point before = Clock::now();
  for (int round = 0; round < 3; ++round) {
    for (uint8_t value : {7, 9})
      marker.Write(0, absl::MakeConstSpan(&value, 1));
  }
  EXPECT_EQ(values, (std::vector<uint8_t>{7, 9}));
  EXPECT_GE(last, before);
  EXPECT_LE(last, Clock::now());
}

TEST(BootMarkerTest, OnlyValueHidesTheRest) {
  std::vector<uint8_t> values;
  BootMarker marker({123, [&](uint8_t value, Clock::time_point) {
                       values.push_back(value);
                     }});
  for (int value = 0; value < 256; ++value) {
    const uint8_t byte = static_cast<uint8_t>(value);
    marker.Write(0, absl::MakeConstSpan(&byte, 1));
  }
  EXPECT_EQ(values, (std::vector<uint8_t>{123}));
}

TEST(BootMarkerTest, AnyWidthIsBounded) {
  int calls = 0;
  BootMarker marker({-1, [&](uint8_t, Clock::time_point) { ++calls; }});
  std::array<uint8_t, 8> bytes;
  for (int i = 0; i < 2000; ++i) {
    bytes.fill(static_cast<uint8_t>(i));
    marker.Write(0, bytes);
  }
  EXPECT_EQ(calls, 256);
  marker.Read(0, absl::MakeSpan(bytes));
  for (uint8_t byte : bytes) EXPECT_EQ(byte, 0xff);
}

}  // namespace
}  // namespace cloister::devices
