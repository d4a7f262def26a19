// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/range_set.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

TEST(RangeSetTest, IsEmptyAtFirst) {
  RangeSet set;
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.bytes(), 0u);
  EXPECT_EQ(set.range_count(), 0u);
  EXPECT_FALSE(set.Overlaps(Range(0, uint64_t{1} << 62)));
  EXPECT_THAT(set.All(), IsEmpty());
  EXPECT_THAT(set.Inside(Range(0, 0x1000)), IsEmpty());
  EXPECT_THAT(set.Outside(Range(0, 0x1000)), ElementsAre(Range(0, 0x1000)));
}

TEST(RangeSetTest, MergesWhatTouchesOrOverlaps) {
  RangeSet set;
  set.Add(Range(0x1000, 0x1000));
  set.Add(Range(0x3000, 0x1000));
  EXPECT_EQ(set.range_count(), 2u);
  set.Add(Range(0x2000, 0x1000));
  EXPECT_THAT(set.All(), ElementsAre(Range(0x1000, 0x3000)));
  set.Add(Range(0, 0x1800));
  set.Add(Range(0x1000, 0x1000));
  EXPECT_THAT(set.All(), ElementsAre(Range(0, 0x4000)));
  EXPECT_EQ(set.bytes(), 0x4000u);
}

TEST(RangeSetTest, OneByteApartStaysApart) {
  RangeSet set;
  set.Add(Range(0, 1));
  set.Add(Range(2, 1));
  EXPECT_THAT(set.All(), ElementsAre(Range(0, 1), Range(2, 1)));
  EXPECT_FALSE(set.Overlaps(Range(1, 1)));
  EXPECT_TRUE(set.Overlaps(Range(1, 2)));
  EXPECT_EQ(set.bytes(), 2u);
}

TEST(RangeSetTest, RemovesFromTheMiddleAndAcrossRanges) {
  RangeSet set;
  set.Add(Range(0x1000, 0x3000));
  set.Remove(Range(0x2000, 0x1000));
  EXPECT_THAT(set.All(),
              ElementsAre(Range(0x1000, 0x1000), Range(0x3000, 0x1000)));
  set.Add(Range(0x5000, 0x1000));
  set.Remove(Range(0x1800, 0x3c00));
  EXPECT_THAT(set.All(),
              ElementsAre(Range(0x1000, 0x800), Range(0x5400, 0xc00)));
  set.Remove(Range(0, 0x1000));  // nothing there
  EXPECT_EQ(set.bytes(), 0x1400u);
  set.Remove(Range(0, 0x10000));
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.bytes(), 0u);
}

TEST(RangeSetTest, InsideAndOutsideAreClipped) {
  RangeSet set;
  set.Add(Range(0x1000, 0x2000));
  set.Add(Range(0x4000, 0x2000));
  EXPECT_THAT(set.Inside(Range(0x2000, 0x3000)),
              ElementsAre(Range(0x2000, 0x1000), Range(0x4000, 0x1000)));
  EXPECT_THAT(set.Outside(Range(0x2000, 0x3000)),
              ElementsAre(Range(0x3000, 0x1000)));
  EXPECT_THAT(set.Outside(Range(0, 0x7000)),
              ElementsAre(Range(0, 0x1000), Range(0x3000, 0x1000),
                          Range(0x6000, 0x1000)));
  EXPECT_THAT(set.Outside(Range(0x4800, 0x100)), IsEmpty());
}

TEST(RangeSetTest, ReachesItsHighestAddress) {
  constexpr uint64_t kEnd = uint64_t{1} << 63;
  RangeSet set;
  set.Add(Range(kEnd - 0x1000, 0x1000));
  set.Add(Range(0, 0x1000));
  EXPECT_TRUE(set.Overlaps(Range(kEnd - 1, 1)));
  EXPECT_THAT(set.Outside(Range(0, kEnd)),
              ElementsAre(Range(0x1000, kEnd - 0x2000)));
  set.Add(Range(0, kEnd));
  EXPECT_EQ(set.bytes(), kEnd);
  set.Clear();
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.bytes(), 0u);
}

// The maximal runs of `value` among [first, end) of `model`.
std::vector<GuestRange> Runs(const std::vector<bool>& model, uint64_t first,
                             uint64_t end, bool value) {
  std::vector<GuestRange> runs;
  for (uint64_t at = first; at < end;) {
    uint64_t next = at;
    while (next < end && model[next] == model[at]) ++next;
    if (model[at] == value) runs.push_back(Range(at, next - at));
    at = next;
  }
  return runs;
}

TEST(RangeSetTest, AgreesWithASetOfBytes) {
  constexpr uint64_t kBytes = 96;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<bool> model(kBytes);
    RangeSet set;
    for (int i = 0; i < 1000; ++i) {
      const uint64_t start = random() % kBytes;
      const uint64_t end = start + 1 + random() % (kBytes - start) / 4;
      const GuestRange range = Range(start, end - start);
      const auto inside = Runs(model, start, end, true);
      ASSERT_EQ(set.Inside(range), inside);
      ASSERT_EQ(set.Outside(range), Runs(model, start, end, false));
      ASSERT_EQ(set.Overlaps(range), !inside.empty());
      const bool add = random() % 2 == 0;
      add ? set.Add(range) : set.Remove(range);
      std::fill(model.begin() + static_cast<ptrdiff_t>(start),
                model.begin() + static_cast<ptrdiff_t>(end), add);
      ASSERT_EQ(set.All(), Runs(model, 0, kBytes, true));
      ASSERT_EQ(set.range_count(), set.All().size());
      ASSERT_EQ(set.bytes(), static_cast<uint64_t>(
                                 std::count(model.begin(), model.end(), true)));
    }
  }
}

}  // namespace
}  // namespace cloister::memory
