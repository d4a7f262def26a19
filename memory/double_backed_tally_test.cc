// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/double_backed_tally.h"

#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

TEST(DoubleBackedTallyTest, ALaterLookReplacesAnEarlierOne) {
  DoubleBackedTally tally;
  EXPECT_EQ(tally.bytes(), 0u);
  tally.Note(Range(0, 0x4000), 0x2000);
  tally.Note(Range(0x4000, 0x4000), 0x1000);
  EXPECT_EQ(tally.bytes(), 0x3000u);
  tally.Note(Range(0, 0x4000), 0x4000);
  EXPECT_EQ(tally.bytes(), 0x5000u);
  tally.Note(Range(0, 0x4000), 0);
  EXPECT_EQ(tally.bytes(), 0x1000u);
  tally.Note(Range(0, 0x4000), 0x1000);
  EXPECT_EQ(tally.bytes(), 0x2000u);
}

TEST(DoubleBackedTallyTest, ClearForgetsTheBytesAndKeepsThePosition) {
  DoubleBackedTally tally;
  EXPECT_EQ(tally.position(), 0u);
  tally.Note(Range(0x4000, 0x4000), 0x1000);
  tally.set_position(0x8000);
  tally.Clear();
  EXPECT_EQ(tally.bytes(), 0u);
  EXPECT_EQ(tally.position(), 0x8000u);
  tally.Note(Range(0x4000, 0x4000), 0x3000);
  EXPECT_EQ(tally.bytes(), 0x3000u);
}

}  // namespace
}  // namespace cloister::memory
