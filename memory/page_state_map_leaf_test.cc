// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map_leaf.h"

#include <algorithm>
#include <array>
#include <random>

#include "gtest/gtest.h"

namespace cloister::memory::page_state_internal {
namespace {

constexpr size_t kPages = DenseLeaf::kPages;

size_t CountRuns(const DenseLeaf& leaf) {
  size_t runs = 1;
  while (leaf.HasMoreRunsThan(runs)) ++runs;
  return runs;
}

TEST(DenseLeafTest, StartsAsOneRunOfZero) {
  DenseLeaf leaf;
  EXPECT_EQ(CountRuns(leaf), 1u);
  EXPECT_EQ(leaf.RunEnd(0), kPages);
  EXPECT_EQ(leaf.RunEnd(kPages - 1), kPages);
  EXPECT_EQ(leaf.Count(0, kPages, 0), kPages);
}

TEST(DenseLeafTest, TwoBitsPerPage) {
  EXPECT_EQ(sizeof(DenseLeaf) * 8, 2 * kPages);
}

TEST(DenseLeafTest, CheckerboardHasARunPerPage) {
  DenseLeaf leaf;
  for (size_t page = 0; page < kPages; page += 2) leaf.Fill(page, page + 1, 2);
  EXPECT_EQ(CountRuns(leaf), kPages);
  EXPECT_EQ(leaf.Count(0, kPages, 2), kPages / 2);
  EXPECT_EQ(leaf.RunEnd(31), 32u);
  leaf.Fill(0, kPages, 3);
  EXPECT_EQ(CountRuns(leaf), 1u);
}

TEST(DenseLeafTest, AgreesWithAnArray) {
  std::mt19937 random(7);
  DenseLeaf leaf;
  std::array<uint8_t, kPages> model = {};
  for (int i = 0; i < 3000; ++i) {
    size_t first = random() % kPages;
    size_t end = first + 1 + random() % (i % 10 == 0 ? kPages - first : 1);
    end = std::min(end + random() % 40, kPages);
    uint8_t value = random() % 4;
    leaf.Fill(first, end, value);
    std::fill(model.begin() + first, model.begin() + end, value);

    size_t runs = 1;
    for (size_t p = 1; p < kPages; ++p) runs += model[p] != model[p - 1];
    ASSERT_TRUE(leaf.HasMoreRunsThan(runs - 1));
    ASSERT_FALSE(leaf.HasMoreRunsThan(runs));
    size_t at = random() % kPages;
    ASSERT_EQ(leaf.Get(at), model[at]);
    size_t run_end = at;
    while (run_end < kPages && model[run_end] == model[at]) ++run_end;
    ASSERT_EQ(leaf.RunEnd(at), run_end);
    for (uint8_t v = 0; v < 4; ++v) {
      ASSERT_EQ(leaf.Count(first, end, v),
                static_cast<size_t>(
                    std::count(model.begin() + first, model.begin() + end, v)));
    }
  }
}

}  // namespace
}  // namespace cloister::memory::page_state_internal
