// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_address.h"

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

TEST(GuestAddressTest, PlusRefusesToWrap) {
  EXPECT_EQ(GuestAddress(1).Plus(2), GuestAddress(3));
  EXPECT_EQ(GuestAddress(UINT64_MAX).Plus(0), GuestAddress(UINT64_MAX));
  EXPECT_EQ(GuestAddress(UINT64_MAX).Plus(1), std::nullopt);
}

TEST(GuestAddressTest, OffsetFrom) {
  EXPECT_EQ(GuestAddress(9).OffsetFrom(GuestAddress(4)), 5u);
  EXPECT_EQ(GuestAddress(4).OffsetFrom(GuestAddress(9)), std::nullopt);
}

TEST(GuestAddressTest, GfnRoundTrip) {
  EXPECT_EQ(GuestAddress(0x5fff).gfn(), Gfn(5));
  EXPECT_EQ(GuestAddress::FromGfn(Gfn(5)), GuestAddress(0x5000));
}

TEST(GuestRangeTest, RefusesEmptyAndWrapping) {
  EXPECT_FALSE(GuestRange::Create(GuestAddress(0), 0).ok());
  EXPECT_FALSE(GuestRange::Create(GuestAddress(UINT64_MAX), 2).ok());
  EXPECT_OK(GuestRange::Create(GuestAddress(UINT64_MAX), 1));
  EXPECT_OK(GuestRange::Create(GuestAddress(1), UINT64_MAX));
  EXPECT_FALSE(GuestRange::Create(GuestAddress(2), UINT64_MAX).ok());
}

TEST(GuestRangeTest, PageAlignment) {
  EXPECT_FALSE(GuestRange::CreatePageAligned(GuestAddress(1), 4096).ok());
  EXPECT_FALSE(GuestRange::CreatePageAligned(GuestAddress(0), 4095).ok());
  EXPECT_OK(GuestRange::CreatePageAligned(GuestAddress(4096), 8192));
  EXPECT_TRUE(Range(4096, 4096).IsPageAligned());
  EXPECT_FALSE(Range(4096, 1).IsPageAligned());
}

TEST(GuestRangeTest, ContainsAtTheEdges) {
  GuestRange range = Range(0x1000, 0x1000);
  EXPECT_TRUE(range.Contains(GuestAddress(0x1000)));
  EXPECT_TRUE(range.Contains(GuestAddress(0x1fff)));
  EXPECT_FALSE(range.Contains(GuestAddress(0xfff)));
  EXPECT_FALSE(range.Contains(GuestAddress(0x2000)));
  EXPECT_TRUE(range.Contains(range));
  EXPECT_FALSE(range.Contains(Range(0x1000, 0x1001)));
  EXPECT_FALSE(range.Contains(Range(0xfff, 2)));
  EXPECT_FALSE(range.Contains(Range(0x1800, UINT64_MAX - 0x1800)));
}

TEST(GuestRangeTest, OverlapAndIntersect) {
  GuestRange range = Range(0x1000, 0x1000);
  EXPECT_FALSE(range.Overlaps(Range(0, 0x1000)));
  EXPECT_FALSE(range.Overlaps(Range(0x2000, 1)));
  EXPECT_TRUE(range.Overlaps(Range(0, UINT64_MAX)));
  EXPECT_EQ(range.Intersect(Range(0x1800, 0x1000)), Range(0x1800, 0x800));
  EXPECT_EQ(range.Intersect(Range(0x2000, 1)), std::nullopt);
  EXPECT_EQ(Range(0, UINT64_MAX).Intersect(range), range);
}

TEST(GuestRangeTest, TextNamesBothEnds) {
  EXPECT_EQ(Range(0x1000, 0x1000).ToString(), "[0x1000, 0x1fff]");
}

}  // namespace
}  // namespace cloister::memory
