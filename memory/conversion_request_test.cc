// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_request.h"

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

TEST(DecodeMapGpaRangeTest, EveryField) {
  EXPECT_THAT(DecodeMapGpaRange(0x3000, 2, 0x10),
              IsOkAndHolds(MapGpaRange{Range(0x3000, 0x2000),
                                       PageState::kPrivate, 0x1000}));
  EXPECT_THAT(DecodeMapGpaRange(0x3000, 1, 0),
              IsOkAndHolds(MapGpaRange{Range(0x3000, 0x1000),
                                       PageState::kShared, 0x1000}));
}

TEST(DecodeMapGpaRangeTest, ASizeHintDoesNotMakeItPrivate) {
  for (uint64_t hint = 0; hint < 16; ++hint) {
    auto shared = DecodeMapGpaRange(0, 1, hint);
    auto encrypted = DecodeMapGpaRange(0, 1, 0x10 | hint);
    ASSERT_OK(shared);
    ASSERT_OK(encrypted);
    EXPECT_EQ(shared->to, PageState::kShared) << hint;
    EXPECT_EQ(encrypted->to, PageState::kPrivate) << hint;
    const uint64_t size = hint == 1   ? uint64_t{2} << 20
                          : hint == 2 ? uint64_t{1} << 30
                                      : kPageSize;
    EXPECT_EQ(shared->page_size, size) << hint;
  }
}

TEST(DecodeMapGpaRangeTest, EveryReservedBitIsRefused) {
  for (int bit = 5; bit < 64; ++bit) {
    EXPECT_THAT(DecodeMapGpaRange(0, 1, uint64_t{1} << bit), StatusIs(kInvalid))
        << bit;
  }
}

TEST(DecodeMapGpaRangeTest, BadRangesAreRefused) {
  constexpr uint64_t kPages = uint64_t{1} << 52;
  EXPECT_THAT(DecodeMapGpaRange(0x1001, 1, 0), StatusIs(kInvalid));
  EXPECT_THAT(DecodeMapGpaRange(0x1000, 0, 0), StatusIs(kInvalid));
  EXPECT_THAT(DecodeMapGpaRange(UINT64_MAX - 0xfff, 2, 0), StatusIs(kInvalid));
  EXPECT_THAT(DecodeMapGpaRange(0x2000, kPages - 1, 0), StatusIs(kInvalid));
  for (uint64_t pages : {kPages, kPages + 1, UINT64_MAX}) {
    EXPECT_THAT(DecodeMapGpaRange(0, pages, 0), StatusIs(kInvalid)) << pages;
  }
  EXPECT_OK(DecodeMapGpaRange(0, kPages - 1, 0));  // a range, if not of RAM
  EXPECT_OK(DecodeMapGpaRange(UINT64_MAX - 0xfff, 1, 0));
}

TEST(CoalesceRangesTest, SortsAndJoins) {
  uint64_t merges = 5;
  EXPECT_THAT(
      CoalesceRanges({Range(0x8000, 0x1000), Range(0x1000, 0x2000),
                      Range(0x3000, 0x1000), Range(0x1000, 0x1000)},
                     &merges),
      IsOkAndHolds(ElementsAre(Range(0x1000, 0x3000), Range(0x8000, 0x1000))));
  EXPECT_EQ(merges, 7u);
}

TEST(CoalesceRangesTest, RefusesBadRanges) {
  uint64_t merges = 0;
  EXPECT_THAT(CoalesceRanges({}, &merges), StatusIs(kInvalid));
  EXPECT_THAT(CoalesceRanges({Range(0x1000, 0x1001)}, &merges),
              StatusIs(kInvalid));
  EXPECT_THAT(
      CoalesceRanges({Range(PageStateMap::kEndAddress, 0x1000)}, &merges),
      StatusIs(kInvalid));
  EXPECT_THAT(CoalesceRanges(
                  {Range(PageStateMap::kEndAddress - 0x1000, 0x2000)}, &merges),
              StatusIs(kInvalid));
  EXPECT_EQ(merges, 0u);
}

// Aliased, private, shared, private, nothing: a page or two of each.
void Fill(PageStateMap* states) {
  ASSERT_OK(states->Set(Range(0, 0x1000), PageState::kAliased));
  ASSERT_OK(states->Set(Range(0x1000, 0x2000), PageState::kPrivate));
  ASSERT_OK(states->Set(Range(0x3000, 0x1000), PageState::kShared));
  ASSERT_OK(states->Set(Range(0x4000, 0x1000), PageState::kPrivate));
}

TEST(CheckRequestTest, SumsUpAndRefusesWhatIsNotRam) {
  PageStateMap states;
  Fill(&states);
  const GuestRange ram = Range(0, 0x5000);
  auto effect = CheckRequest(states, {&ram, 1}, PageState::kShared);
  ASSERT_OK(effect);
  EXPECT_EQ(effect->changed_bytes, 0x3000u);
  EXPECT_EQ(effect->same_bytes, 0x1000u);
  EXPECT_EQ(effect->aliased_bytes, 0x1000u);
  const GuestRange outside = Range(0x4000, 0x2000);
  EXPECT_THAT(CheckRequest(states, {&outside, 1}, PageState::kShared),
              StatusIs(kInvalid));
}

TEST(ConversionWalkerTest, YieldsWhatChangesInBatches) {
  PageStateMap states;
  Fill(&states);
  const std::vector<GuestRange> ranges = {Range(0, 0x2000),
                                          Range(0x2000, 0x3000)};
  ConversionWalker all(&states, ranges, PageState::kShared);
  EXPECT_THAT(all.Next(),
              ElementsAre(Range(0x1000, 0x1000), Range(0x2000, 0x1000),
                          Range(0x4000, 0x1000)));
  EXPECT_THAT(all.Next(), IsEmpty());
  ConversionWalker single(&states, ranges, PageState::kShared);
  EXPECT_THAT(single.Next(1), ElementsAre(Range(0x1000, 0x1000)));
  EXPECT_THAT(single.Next(1), ElementsAre(Range(0x2000, 0x1000)));
  EXPECT_THAT(single.Next(1), ElementsAre(Range(0x4000, 0x1000)));
  EXPECT_THAT(single.Next(1), IsEmpty());
}

TEST(ChunkAtTest, EndsAtMultiplesOfTheAddress) {
  const GuestRange range = Range(0x3000, 0x6000);
  EXPECT_EQ(ChunkAt(range, 0, 0x4000), Range(0x3000, 0x1000));
  EXPECT_EQ(ChunkAt(range, 0x1000, 0x4000), Range(0x4000, 0x4000));
  EXPECT_EQ(ChunkAt(range, 0x5000, 0x4000), Range(0x8000, 0x1000));
}

TEST(StateWalkerTest, BatchesAreTheRangesInOrder) {
  PageStateMap states;
  const GuestRange all = Range(0x10000, 64 * kPageSize);
  ASSERT_OK(states.Set(all, PageState::kPrivate));
  for (uint64_t at = 0x10000; at < 0x50000; at += 2 * kPageSize) {
    ASSERT_OK(states.Set(Range(at, kPageSize), PageState::kShared));
  }
  std::vector<StateRange> expected;
  const GuestRange asked = Range(0xf000, 66 * kPageSize);
  states.ForEachRange(asked, [&](const StateRange& part) {
    expected.push_back(part);
    return true;
  });
  ASSERT_EQ(expected.size(), 66u);
  for (size_t limit : {size_t{1}, size_t{7}, size_t{66}, size_t{1000}}) {
    StateWalker walker(&states, asked);
    std::vector<StateRange> walked;
    for (auto batch = walker.Next(limit); !batch.empty();
         batch = walker.Next(limit)) {
      EXPECT_LE(batch.size(), limit);
      walked.insert(walked.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(walked, expected) << limit;
    EXPECT_TRUE(walker.Next(limit).empty());
  }
}

// It goes on from where it was, whatever the ranges have become.
TEST(StateWalkerTest, SeesChangesAhead) {
  PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 8 * kPageSize), PageState::kPrivate));
  ASSERT_OK(states.Set(Range(0, kPageSize), PageState::kShared));
  StateWalker walker(&states, Range(0, 8 * kPageSize));
  EXPECT_EQ(walker.Next(1), std::vector<StateRange>(
                                {{Range(0, kPageSize), PageState::kShared}}));
  ASSERT_OK(states.Set(Range(0, 2 * kPageSize), PageState::kAliased));
  EXPECT_EQ(walker.Next(1),
            std::vector<StateRange>(
                {{Range(kPageSize, kPageSize), PageState::kAliased}}));
  EXPECT_EQ(walker.Next(1),
            std::vector<StateRange>(
                {{Range(2 * kPageSize, 6 * kPageSize), PageState::kPrivate}}));
  EXPECT_TRUE(walker.Next(1).empty());
}

}  // namespace
}  // namespace cloister::memory
