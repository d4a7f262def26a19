// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/registers.h"

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

TEST(LapicState, ReadsWhatWasWrittenLittleEndian) {
  LapicState state;
  state.Write(0x350, 0x00010700);
  EXPECT_EQ(state.Read(0x350), 0x00010700u);
  EXPECT_EQ(state.bytes[0x350], 0x00);
  EXPECT_EQ(state.bytes[0x351], 0x07);
  EXPECT_EQ(state.bytes[0x352], 0x01);
  EXPECT_EQ(state.Read(0x360), 0u);
}

TEST(LapicState, IgnoresOffsetsBeyondThePage) {
  LapicState state;
  state.Write(1020, 0xffffffff);
  EXPECT_EQ(state.Read(1020), 0xffffffffu);
  LapicState before = state;
  state.Write(1021, 1);
  state.Write(0xffffffff, 1);
  EXPECT_EQ(state, before);
  EXPECT_EQ(state.Read(1021), 0u);
  EXPECT_EQ(state.Read(0xfffffffe), 0u);
}

TEST(Registers, CompareByValue) {
  Registers a, b;
  EXPECT_EQ(a, b);
  b.r13 = 1;
  EXPECT_NE(a, b);
  SpecialRegisters c, d;
  EXPECT_EQ(c, d);
  d.gdt.limit = 7;
  EXPECT_NE(c, d);
}

}  // namespace
}  // namespace cloister::kvm
