// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map_tree.h"

#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::memory::page_state_internal {
namespace {

// A tree beside the map of the entries it should hold.
class TreeTest : public ::testing::Test {
 protected:
  ~TreeTest() override {
    editor_.Drop(root_);
    FreeGarbage();
    EXPECT_EQ(editor_.bytes(), 0u);
    EXPECT_EQ(editor_.entry_count(), 0u);
  }
  void FreeGarbage() {
    for (const auto& garbage : editor_.TakeGarbage()) editor_.Free(garbage);
  }

  // Replaces the entries that start in [low, high) by `count` of them, each a
  // single page in state 1, at low, low + 2, ...
  void Replace(uint64_t low, uint64_t high, size_t count) {
    std::vector<Entry> with;
    model_.erase(model_.lower_bound(low), model_.lower_bound(high));
    for (size_t i = 0; i < count; ++i) {
      uint64_t first = low + 2 * i;
      with.push_back(Entry::Range(first, first + 1, 1));
      model_[first] = first + 1;
    }
    root_ = editor_.Replace(root_, low, high, with);
    FreeGarbage();
  }

  void ExpectEqual() {
    auto expected = model_.begin();
    bool all = VisitEntries(root_, 0, uint64_t{1} << 40, [&](const Entry& e) {
      bool equal = expected != model_.end() && e.first() == expected->first &&
                   e.end() == expected->second && e.state() == 1;
      EXPECT_TRUE(equal) << e.first();
      if (expected != model_.end()) ++expected;
      return equal;
    });
    EXPECT_TRUE(all);
    EXPECT_EQ(expected, model_.end());
    EXPECT_EQ(editor_.entry_count(), model_.size());
  }

  TreeEditor editor_;
  const Node* root_ = nullptr;
  std::map<uint64_t, uint64_t> model_;
};

TEST_F(TreeTest, EmptyTreeHasNoNode) {
  EXPECT_EQ(Lookup(nullptr, 5), 0);
  Replace(0, 10, 5);
  EXPECT_NE(root_, nullptr);
  Replace(0, 10, 0);
  EXPECT_EQ(root_, nullptr);
  EXPECT_EQ(editor_.bytes(), 0u);
}

TEST_F(TreeTest, LookupFindsStatesGapsAndLeaves) {
  DenseLeaf leaf;
  leaf.Fill(3, 5, 2);
  std::vector<Entry> with = {
      Entry::Range(10, 20, 3),
      Entry::Leaf(2048, editor_.NewLeaf(leaf)),
      Entry::Range(4096, uint64_t{1} << 40, 1),
  };
  root_ = editor_.Replace(nullptr, 0, 10000, with);
  EXPECT_EQ(Lookup(root_, 9), 0);
  EXPECT_EQ(Lookup(root_, 10), 3);
  EXPECT_EQ(Lookup(root_, 19), 3);
  EXPECT_EQ(Lookup(root_, 20), 0);
  EXPECT_EQ(Lookup(root_, 2050), 0);
  EXPECT_EQ(Lookup(root_, 2051), 2);
  EXPECT_EQ(Lookup(root_, 4095), 0);
  EXPECT_EQ(Lookup(root_, 4096), 1);
  EXPECT_EQ(Lookup(root_, (uint64_t{1} << 40) - 1), 1);
  EXPECT_EQ(Lookup(root_, uint64_t{1} << 40), 0);
}

TEST_F(TreeTest, ManyEntriesStayInOrderAndShallow) {
  std::mt19937_64 random(3);
  constexpr uint64_t kSpan = 200000;
  for (int i = 0; i < 20000; ++i) {
    uint64_t low = random() % kSpan * 2;
    uint64_t count = 1 + random() % 3;
    Replace(low, low + 2 * (count + random() % 2), count);
  }
  ExpectEqual();
  EXPECT_GT(model_.size(), 10000u);
  EXPECT_LE(Height(root_), 4u);
  // Ever longer holes: nodes merge, and the height goes down with the size.
  for (uint64_t length = 10; model_.size() > 40; length += length / 8 + 1) {
    uint64_t low = random() % kSpan * 2;
    Replace(low, low + length, random() % 2);
    ExpectEqual();
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_LE(Height(root_), 1u);
}

TEST_F(TreeTest, DrainedFromOneEndItKeepsItsShape) {
  for (uint64_t i = 0; i < 5000; ++i) Replace(2 * i, 2 * i + 2, 1);
  ExpectEqual();
  const size_t full = editor_.bytes();
  EXPECT_LE(full, 5000u * 24);
  EXPECT_LE(Height(root_), 4u);
  for (uint64_t i = 0; i < 4990; ++i) Replace(2 * i, 2 * i + 1, 0);
  ExpectEqual();
  EXPECT_EQ(Height(root_), 0u);
}

TEST_F(TreeTest, ThinnedOutItMergesItsNodes) {
  for (uint64_t i = 0; i < 5000; ++i) Replace(2 * i, 2 * i + 2, 1);
  for (uint64_t i = 0; i < 5000; ++i) {
    if (i % 40 != 0) Replace(2 * i, 2 * i + 1, 0);
  }
  ExpectEqual();
  EXPECT_EQ(model_.size(), 125u);
  EXPECT_EQ(Height(root_), 1u);
  EXPECT_LE(editor_.bytes(), 125u * 20);
}

TEST_F(TreeTest, OldTreeOutlivesTheChange) {
  Replace(0, 2000, 1000);
  const Node* old = root_;
  root_ = editor_.Replace(root_, 500, 1500, {});
  auto garbage = editor_.TakeGarbage();
  EXPECT_EQ(Lookup(old, 1000), 1);
  EXPECT_EQ(Lookup(root_, 1000), 0);
  EXPECT_EQ(Lookup(root_, 498), 1);
  EXPECT_EQ(Lookup(root_, 1500), 1);
  for (const auto& piece : garbage) editor_.Free(piece);
}

TEST_F(TreeTest, VisitStopsWhenTold) {
  Replace(0, 2000, 1000);
  int visits = 0;
  EXPECT_FALSE(VisitEntries(root_, 100, 200, [&](const Entry& entry) {
    EXPECT_EQ(entry.first(), 100u + 2 * visits);
    return ++visits < 3;
  }));
  EXPECT_EQ(visits, 3);
}

}  // namespace
}  // namespace cloister::memory::page_state_internal
