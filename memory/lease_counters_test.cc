// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/lease_counters.h"

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

// Remembers how many counters were touched.
struct CountingEnv {
  using Notifier = LeaseNotifier;
  static constexpr std::array<int, 3> kLevelShifts = {0, 4, 9};
  static inline uint64_t adds = 0;
  template <typename T>
  static T Load(T* cell) {
    return *cell;
  }
  template <typename T>
  static void Add(T* cell, T value) {
    ++adds;
    *cell += value;
  }
  template <typename T>
  static void SetBits(T* cell, T bits) {
    *cell |= bits;
  }
  template <typename T>
  static void ClearBits(T* cell, T bits) {
    *cell &= ~bits;
  }
};
using Counters = LeaseCounters<CountingEnv>;

constexpr uint64_t kGiBPages = uint64_t{1} << 18;
constexpr uint32_t kMinusOne = ~uint32_t{0};

GuestRange Pages(uint64_t first, uint64_t count) {
  return *GuestRange::Create(GuestAddress(first * kPageSize),
                             count * kPageSize);
}

// Of two GiB.
Counters Made() {
  auto counters = Counters::Create();
  EXPECT_OK(counters);
  EXPECT_OK(counters->Cover(Pages(0, 2 * kGiBPages)));
  CountingEnv::adds = 0;
  return *std::move(counters);
}

TEST(LeaseCountersTest, CountsInTheFewestBlocks) {
  Counters counters = Made();
  const struct {
    uint64_t first, pages, blocks;
  } kCases[] = {{0, 1, 1},
                {16, 16, 1},
                {512, 512, 1},
                {8, 16, 16},         // no aligned block in it
                {8, 32, 8 + 1 + 8},  // one of 64 KiB
                {15, 18, 1 + 1 + 1},
                {512, 528, 1 + 1},       // 2 MiB and 64 KiB
                {496, 544, 1 + 1 + 1},   // 64 KiB, 2 MiB, 64 KiB
                {511, 514, 1 + 1 + 1}};  // 4 KiB, 2 MiB, 4 KiB
  for (const auto& c : kCases) {
    CountingEnv::adds = 0;
    counters.Count(Pages(c.first, c.pages), 1);
    EXPECT_EQ(CountingEnv::adds, c.blocks) << c.first << " " << c.pages;
    EXPECT_TRUE(counters.AnyLeased(Pages(c.first + c.pages - 1, 1)));
    EXPECT_FALSE(counters.AnyLeased(Pages(c.first + c.pages, 1)));
    counters.Count(Pages(c.first, c.pages), kMinusOne);
    EXPECT_FALSE(counters.AnyLeased(Pages(0, 2 * kGiBPages)));
  }
}

TEST(LeaseCountersTest, RunsAreMaximalAcrossTheEndOfALeaf) {
  Counters counters = Made();
  counters.Count(Pages(kGiBPages - 3, 5), 1);
  counters.Count(Pages(kGiBPages - 1, 20), 1);
  std::vector<std::pair<GuestRange, bool>> runs;
  auto note = [&](const GuestRange& run, bool leased) {
    runs.emplace_back(run, leased);
  };
  counters.ForEachRun(Pages(kGiBPages - 5, 30), note);
  EXPECT_THAT(runs, ElementsAre(Pair(Pages(kGiBPages - 5, 2), false),
                                Pair(Pages(kGiBPages - 3, 22), true),
                                Pair(Pages(kGiBPages + 19, 6), false)));
}

TEST(LeaseCountersTest, BlockedPagesAreThoseAndNoOthers) {
  Counters counters = Made();
  counters.Block(Pages(kGiBPages - 70, 140));
  EXPECT_FALSE(counters.Blocked(Pages(0, kGiBPages - 70)));
  EXPECT_FALSE(counters.Blocked(Pages(kGiBPages + 70, 500)));
  counters.Unblock(Pages(kGiBPages - 70, 139));
  EXPECT_FALSE(counters.Blocked(Pages(0, kGiBPages + 69)));
  EXPECT_TRUE(counters.Blocked(Pages(kGiBPages + 69, 1)));
  EXPECT_TRUE(counters.Blocked(Pages(0, 2 * kGiBPages)));
}

TEST(LeaseCountersTest, OnlyWhatWasCoveredHasCounters) {
  auto counters = Counters::Create();
  ASSERT_OK(counters);
  ASSERT_OK(counters->Cover(Pages(kGiBPages, 1)));
  EXPECT_TRUE(counters->Covers(Pages(kGiBPages, kGiBPages)));
  EXPECT_FALSE(counters->Covers(Pages(kGiBPages - 1, 2)));
  EXPECT_FALSE(counters->Cover(Pages(uint64_t{1} << 40, 1)).ok());
}

}  // namespace
}  // namespace cloister::memory
