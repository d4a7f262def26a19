// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map.h"

#include <algorithm>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr uint64_t kTiB = kGiB << 10;
// What a leaf covers.
constexpr uint64_t kBlock = 8 * kMiB;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}
StateRange Part(uint64_t start, uint64_t size, PageState state) {
  return {Range(start, size), state};
}
std::vector<StateRange> Ranges(const PageStateMap& map,
                               const GuestRange& range) {
  std::vector<StateRange> ranges;
  map.ForEachRange(range, [&](const StateRange& part) {
    ranges.push_back(part);
    return true;
  });
  return ranges;
}

TEST(PageStateMapTest, AtFirstNothingIsRamAndNothingIsStored) {
  PageStateMap map;
  EXPECT_EQ(map.Get(GuestAddress(0)), PageState::kNotRam);
  EXPECT_EQ(map.Get(GuestAddress(UINT64_MAX)), PageState::kNotRam);
  EXPECT_EQ(map.entry_count(), 0u);
  EXPECT_LT(map.memory_bytes(), 16u << 10);
  EXPECT_EQ(map.bytes(PageState::kNotRam), PageStateMap::kEndAddress);
  EXPECT_THAT(Ranges(map, Range(1, UINT64_MAX)),
              ElementsAre(Part(1, UINT64_MAX, PageState::kNotRam)));
}

TEST(PageStateMapTest, RefusesWhatIsNotPagesBelowTheEnd) {
  PageStateMap map;
  const uint64_t end = PageStateMap::kEndAddress;
  EXPECT_THAT(map.Set(Range(0x800, 0x1000), PageState::kShared),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("[0x800, 0x17ff]: not page-aligned")));
  EXPECT_FALSE(map.Set(Range(0, 0x1001), PageState::kShared).ok());
  EXPECT_THAT(map.Set(Range(end - 0x1000, 0x2000), PageState::kShared),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("ends after 0x10000000000000")));
  EXPECT_FALSE(map.Set(Range(end, 0x1000), PageState::kNotRam).ok());
  EXPECT_FALSE(map.Set(Range(0, 0x1000), static_cast<PageState>(4)).ok());
  EXPECT_EQ(map.CurrentGeneration(), 0u);
  EXPECT_EQ(map.entry_count(), 0u);
  EXPECT_OK(map.Set(Range(end - 0x1000, 0x1000), PageState::kShared));
  EXPECT_EQ(map.Get(GuestAddress(end - 1)), PageState::kShared);
  EXPECT_EQ(map.Get(GuestAddress(end)), PageState::kNotRam);
}

TEST(PageStateMapTest, ARangeOfAnySizeAndAlignmentIsOneEntry) {
  for (uint64_t start : {uint64_t{0}, kGiB, kGiB - 0x1000, 5 * kTiB + 0x3000}) {
    for (uint64_t size : {uint64_t{0x1000}, kGiB, kTiB, 1000 * kTiB}) {
      PageStateMap map;
      ASSERT_OK(map.Set(Range(start, size), PageState::kPrivate));
      EXPECT_EQ(map.entry_count(), 1u);
      EXPECT_EQ(map.bytes(PageState::kPrivate), size);
      EXPECT_TRUE(map.IsWholly(Range(start, size), PageState::kPrivate));
    }
  }
}

TEST(PageStateMapTest, SplitsAndMerges) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, 4 * kGiB), PageState::kPrivate));
  ASSERT_OK(map.Set(Range(kGiB, 0x1000), PageState::kShared));
  EXPECT_EQ(map.entry_count(), 3u);
  EXPECT_THAT(
      Ranges(map, Range(0, 5 * kGiB)),
      ElementsAre(Part(0, kGiB, PageState::kPrivate),
                  Part(kGiB, 0x1000, PageState::kShared),
                  Part(kGiB + 0x1000, 3 * kGiB - 0x1000, PageState::kPrivate),
                  Part(4 * kGiB, kGiB, PageState::kNotRam)));
  ASSERT_OK(map.Set(Range(kGiB + 0x1000, 0x1000), PageState::kShared));
  EXPECT_EQ(map.entry_count(), 3u);
  ASSERT_OK(map.Set(Range(kGiB, 0x2000), PageState::kPrivate));
  EXPECT_EQ(map.entry_count(), 1u);
}

TEST(PageStateMapTest, NeighboursMergeAcrossBlocksAndRegions) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, kBlock), PageState::kShared));
  ASSERT_OK(map.Set(Range(2 * kBlock, kBlock), PageState::kShared));
  EXPECT_EQ(map.entry_count(), 2u);
  ASSERT_OK(map.Set(Range(kBlock, kBlock), PageState::kShared));
  EXPECT_EQ(map.entry_count(), 1u);
  ASSERT_OK(map.Set(Range(3 * kBlock, 0x1000), PageState::kShared));
  EXPECT_EQ(map.entry_count(), 1u);
}

TEST(PageStateMapTest, QueriesAreClippedToBytes) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0x1000, 0x1000), PageState::kShared));
  EXPECT_THAT(Ranges(map, Range(0xfff, 2)),
              ElementsAre(Part(0xfff, 1, PageState::kNotRam),
                          Part(0x1000, 1, PageState::kShared)));
  EXPECT_THAT(Ranges(map, Range(0x1234, 3)),
              ElementsAre(Part(0x1234, 3, PageState::kShared)));
  EXPECT_TRUE(map.IsWholly(Range(0x1fff, 1), PageState::kShared));
  EXPECT_FALSE(map.IsWholly(Range(0x1fff, 2), PageState::kShared));
  EXPECT_FALSE(map.IsWholly(Range(0xfff, 2), PageState::kNotRam));
  EXPECT_TRUE(map.IsWholly(Range(0x2000, 0x1000), PageState::kNotRam));
}

TEST(PageStateMapTest, VisitingStopsWhenToldAndMaySet) {
  PageStateMap map;
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_OK(map.Set(Range(i * 0x2000, 0x1000), PageState::kShared));
  }
  int visits = 0;
  EXPECT_FALSE(map.ForEachRange(Range(0, kGiB), [&](const StateRange& part) {
    // The old ranges stay in sight.
    EXPECT_EQ(part.range.size(), 0x1000u);
    EXPECT_OK(map.Set(Range(0, kGiB), PageState::kPrivate));
    return ++visits < 5;
  }));
  EXPECT_EQ(visits, 5);
  EXPECT_TRUE(map.IsWholly(Range(0, kGiB), PageState::kPrivate));
}

TEST(PageStateMapTest, ANoOpChangesNothing) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, kGiB), PageState::kPrivate));
  ASSERT_OK(map.Set(Range(0x5000, kMiB), PageState::kPrivate));
  EXPECT_EQ(map.CurrentGeneration(), 1u);
}

TEST(PageStateMapTest, GenerationTellsWhichNeighbourhoodChanged) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, 8 * kGiB), PageState::kPrivate));
  const GuestAddress page(kGiB);
  uint64_t before = map.CurrentGeneration();
  EXPECT_FALSE(map.ChangedSince(page, before));
  // Elsewhere, even while ranges split and merge around the page.
  ASSERT_OK(map.Set(Range(3 * kGiB + 5 * kMiB, 0x1000), PageState::kShared));
  ASSERT_OK(map.Set(Range(3 * kGiB + 5 * kMiB, 0x1000), PageState::kPrivate));
  EXPECT_FALSE(map.ChangedSince(page, before));
  // There and back again: equal states, and still a change.
  ASSERT_OK(map.Set(Range(kGiB, 0x1000), PageState::kShared));
  ASSERT_OK(map.Set(Range(kGiB, 0x1000), PageState::kPrivate));
  EXPECT_TRUE(map.ChangedSince(page, before));
  EXPECT_TRUE(map.ChangedSince(page, before + 3));
  EXPECT_FALSE(map.ChangedSince(page, map.CurrentGeneration()));
}

TEST(PageStateMapTest, EachPageOfALargeChangeCounts) {
  for (uint64_t size : {0x2000ul, 32 * kMiB, 40 * kMiB, 20 * kGiB, 20 * kTiB}) {
    PageStateMap map;
    ASSERT_OK(map.Set(Range(3 * kMiB, size), PageState::kPrivate));
    for (uint64_t i = 0; i <= 64; ++i) {
      uint64_t offset = std::min(size / 64 * i, size - 1);
      EXPECT_TRUE(map.ChangedSince(GuestAddress(3 * kMiB + offset), 0))
          << size << " " << offset;
    }
  }
}

// 4 bits per page, whatever the pattern.
TEST(PageStateMapTest, MemoryIsBoundedInTheWorstCase) {
  constexpr uint64_t kSpan = kGiB;
  PageStateMap map;
  const size_t fixed = map.memory_bytes();
  const size_t limit = kSpan / kPageSize / 2;
  // Page runs from a checkerboard to those just too long for bitmaps.
  for (uint64_t run : {1, 2, 3, 60, 120, 128, 136, 200, 500}) {
    ASSERT_OK(map.Set(Range(0, kSpan), PageState::kPrivate));
    const uint64_t bytes = run * kPageSize;
    for (uint64_t at = 0; at + 2 * bytes <= kSpan; at += 2 * bytes) {
      ASSERT_OK(map.Set(Range(at, bytes), PageState::kShared));
      if (at % (kSpan / 16) < 2 * bytes) {
        ASSERT_LE(map.memory_bytes(), fixed + limit) << run;
      }
    }
    EXPECT_LE(map.memory_bytes(), fixed + limit) << run;
  }
}

TEST(PageStateMapTest, LeavesCollapseWhenTheyBecomeSparse) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, kGiB), PageState::kPrivate));
  for (uint64_t at = 0; at < kGiB; at += 2 * kPageSize) {
    ASSERT_OK(map.Set(Range(at, kPageSize), PageState::kShared));
  }
  EXPECT_EQ(map.entry_count(), kGiB / kBlock);
  const size_t dense = map.memory_bytes();
  // One page at a time back; the last few make ranges of each block.
  for (uint64_t at = 0; at < kGiB; at += 2 * kPageSize) {
    ASSERT_OK(map.Set(Range(at, kPageSize), PageState::kPrivate));
  }
  EXPECT_EQ(map.entry_count(), 1u);
  EXPECT_LT(map.memory_bytes(), dense / 3);
  EXPECT_THAT(Ranges(map, Range(0, kGiB)),
              ElementsAre(Part(0, kGiB, PageState::kPrivate)));
}

TEST(PageStateMapTest, MemoryStaysFlatUnderEndlessFlips) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, 16 * kGiB), PageState::kPrivate));
  size_t most = 0;
  for (int i = 0; i < 20000; ++i) {
    uint64_t page = kGiB + (i / 2 * 37 % 4096) * kPageSize;
    ASSERT_OK(map.Set(Range(page, kPageSize),
                      i % 2 == 0 ? PageState::kShared : PageState::kPrivate));
    most = std::max(most, map.memory_bytes());
  }
  EXPECT_LT(most, 64u << 10);
  EXPECT_EQ(map.entry_count(), 1u);
}

TEST(PageStateMapTest, StatesHaveNames) {
  EXPECT_EQ(PageStateName(PageState::kNotRam), "not-ram");
  EXPECT_EQ(PageStateName(PageState::kPrivate), "private");
  EXPECT_EQ(PageStateName(PageState::kShared), "shared");
  EXPECT_EQ(PageStateName(PageState::kAliased), "aliased");
  EXPECT_EQ(PageStateName(static_cast<PageState>(9)), "invalid");
}

}  // namespace
}  // namespace cloister::memory
