// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map_generations.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::memory::page_state_internal {
namespace {

constexpr uint64_t k2M = 512;  // In pages.
constexpr uint64_t k1G = 512 * k2M;

TEST(GenerationsTest, NothingHasChangedAtFirst) {
  Generations generations;
  EXPECT_EQ(generations.LastChange(0), 0u);
  EXPECT_EQ(generations.LastChange((uint64_t{1} << 40) - 1), 0u);
}

TEST(GenerationsTest, ASmallChangeMarksItsNeighbourhoodOnly) {
  Generations generations;
  generations.Mark(5 * k2M + 7, 5 * k2M + 8, 3);
  EXPECT_EQ(generations.LastChange(5 * k2M), 3u);
  EXPECT_EQ(generations.LastChange(6 * k2M - 1), 3u);
  EXPECT_EQ(generations.LastChange(5 * k2M - 1), 0u);
  EXPECT_EQ(generations.LastChange(6 * k2M), 0u);
}

TEST(GenerationsTest, LargerChangesMarkCoarserNeighbourhoods) {
  Generations generations;
  // 16 blocks of 2 MiB still count one by one; 17 count as their GiB.
  generations.Mark(0, 16 * k2M, 1);
  EXPECT_EQ(generations.LastChange(16 * k2M), 0u);
  generations.Mark(k1G, k1G + 17 * k2M, 2);
  EXPECT_EQ(generations.LastChange(k1G + 17 * k2M), 2u);
  // (2 * k1G itself shares a counter with page 0, which changed first.)
  EXPECT_EQ(generations.LastChange(2 * k1G + 100 * k2M), 0u);
  // More than 16 GiB count as 512 GiB; more than 8 TiB as everything.
  generations.Mark(512 * k1G, 529 * k1G, 3);
  EXPECT_EQ(generations.LastChange(1023 * k1G), 3u);
  EXPECT_EQ(generations.LastChange(1024 * k1G + 100 * k2M), 0u);
  generations.Mark(0, 17 * 512 * k1G, 4);
  EXPECT_EQ(generations.LastChange((uint64_t{1} << 40) - 1), 4u);
}

// The one promise: never older than the truth.
TEST(GenerationsTest, NeverForgetsAChange) {
  std::mt19937_64 random(17);
  Generations generations;
  struct Change {
    uint64_t first;
    uint64_t end;
  };
  std::vector<Change> changes;
  for (uint64_t generation = 1; generation <= 2000; ++generation) {
    uint64_t size = 1 + (random() >> (24 + random() % 40));
    uint64_t first = random() % ((uint64_t{1} << 40) - size);
    changes.push_back({first, first + size});
    generations.Mark(first, first + size, generation);
    // Both ends of some earlier change.
    const Change& change = changes[random() % changes.size()];
    for (uint64_t page : {change.first, change.end - 1}) {
      uint64_t latest = 0;
      for (size_t i = 0; i < changes.size(); ++i) {
        if (changes[i].first <= page && page < changes[i].end) latest = i + 1;
      }
      ASSERT_GE(generations.LastChange(page), latest);
      ASSERT_LE(generations.LastChange(page), generation);
    }
  }
}

}  // namespace
}  // namespace cloister::memory::page_state_internal
