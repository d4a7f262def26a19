// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/bytes.h"

#include "gtest/gtest.h"

namespace cloister::base {
namespace {

TEST(BytesTest, LittleEndianAtOddAddresses) {
  unsigned char buffer[9] = {};
  StoreLe<uint64_t>(buffer + 1, 0x0102030405060708);
  EXPECT_EQ(buffer[1], 0x08);
  EXPECT_EQ(buffer[8], 0x01);
  EXPECT_EQ(LoadLe<uint16_t>(buffer + 1), 0x0708);
  EXPECT_EQ(LoadLe<uint32_t>(buffer + 5), 0x01020304u);
}

TEST(BytesTest, Alignment) {
  EXPECT_TRUE(IsAligned(0, 4096));
  EXPECT_FALSE(IsAligned(4095, 4096));
  EXPECT_EQ(AlignDown(8191, 4096), 4096u);
  EXPECT_EQ(AlignUp(1, 4096), 4096u);
  EXPECT_EQ(AlignUp(4096, 4096), 4096u);
  EXPECT_EQ(AlignUp(~0ull, 4096), 0u);
}

TEST(BytesTest, PowerOfTwo) {
  EXPECT_FALSE(IsPowerOfTwo(0));
  EXPECT_TRUE(IsPowerOfTwo(1));
  EXPECT_FALSE(IsPowerOfTwo(3));
  EXPECT_TRUE(IsPowerOfTwo(1ull << 63));
}

}  // namespace
}  // namespace cloister::base
