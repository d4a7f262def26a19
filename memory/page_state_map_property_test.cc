// SPDX-License-Identifier: Apache-2.0
//
// Random operations on the map and on the naive model. CLOISTER_TEST_SEED and
// CLOISTER_TEST_OPS repeat or prolong a run.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/page_state_map_model.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

constexpr uint64_t kBlock = 2048;  // Pages of a dense leaf.

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  uint64_t value;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

// Where operations may start and end: single pages about block boundaries, a
// block where each page counts, many blocks too sparse for bitmaps, and
// scattered giants.
std::vector<uint64_t> Cuts(std::mt19937_64& random) {
  std::vector<uint64_t> cuts;
  const uint64_t base = (random() % (uint64_t{1} << 28)) * kBlock;
  for (uint64_t page = 0; page < 600; ++page) cuts.push_back(base + page);
  for (uint64_t block = 1; block < 40; ++block) {
    for (uint64_t page = 0; page < 30; ++page) {
      cuts.push_back(base + block * kBlock - 15 + page);
    }
  }
  for (uint64_t block = 100; block < 300; ++block) {
    for (uint64_t page = 0; page < 12; ++page) {
      cuts.push_back(base + block * kBlock + page * 170);
    }
  }
  for (int i = 0; i < 60; ++i) cuts.push_back(random() >> (24 + i % 30));
  return cuts;
}

ModelOp RandomOp(const PageStateModel& model, std::mt19937_64& random) {
  // Mostly single cells and short stretches, sometimes a lot at once.
  size_t first = random() % model.cells();
  size_t length = 1;
  uint64_t kind = random() % 100;
  if (kind >= 60) length = 1 + random() % 8;
  if (kind >= 85) length = 1 + random() % 60;
  if (kind == 99) length = 1 + random() % model.cells();
  return {first, std::min(first + length, model.cells()),
          static_cast<PageState>(random() % 4)};
}

// Applies the operation to both; what went wrong, or "".
template <typename Map>
std::string Step(Map& map, PageStateModel& model, const ModelOp& op) {
  GuestRange range = model.Range(op.first, op.end);
  uint64_t before = map.CurrentGeneration();
  bool changes = model.Apply(op);
  absl::Status status = map.Set(range, op.state);
  if (!status.ok()) return status.ToString();
  if (map.CurrentGeneration() != before + changes) {
    return absl::StrCat("generation went from ", before, " to ",
                        map.CurrentGeneration());
  }
  for (GuestAddress at : {range.start(), range.last()}) {
    if (changes && !map.ChangedSince(at, before)) {
      return absl::StrCat("no change seen at ", at.ToString());
    }
    if (map.ChangedSince(at, before + changes)) {
      return absl::StrCat("a change from the future at ", at.ToString());
    }
  }
  return "";
}

// Compares everything after each operation; what went wrong, or "".
template <typename Map>
std::string Replay(const PageStateModel& cuts,
                   const std::vector<ModelOp>& ops) {
  Map map;
  PageStateModel model = cuts;
  model.Clear();
  for (const ModelOp& op : ops) {
    std::string wrong = Step(map, model, op);
    if (wrong.empty()) wrong = model.Compare(map);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

// Runs `count` random operations with spot checks, and a full check now and
// then. What went wrong, with the shortest sequence that shows it; or "".
template <typename Map>
std::string Episode(std::mt19937_64& random, size_t count) {
  PageStateModel model(Cuts(random));
  Map map;
  std::vector<ModelOp> ops;
  std::string wrong;
  while (ops.size() < count && wrong.empty()) {
    ops.push_back(RandomOp(model, random));
    wrong = Step(map, model, ops.back());
    ModelOp look = RandomOp(model, random);
    if (wrong.empty()) wrong = model.CompareRange(map, look.first, look.end);
    if (wrong.empty()) wrong = model.ComparePage(map, look.first, true);
    if (wrong.empty() && ops.size() % 2000 == 0) wrong = model.Compare(map);
  }
  if (wrong.empty()) wrong = model.Compare(map);
  if (wrong.empty()) return "";

  auto fails = [&](const std::vector<ModelOp>& fewer) {
    return !Replay<Map>(model, fewer).empty();
  };
  if (fails(ops)) ops = Shrink(std::move(ops), fails);
  std::string text = absl::StrCat(wrong, "\nshortest sequence, ", ops.size(),
                                  " operations:\n");
  for (const ModelOp& op : ops) {
    absl::StrAppend(&text, "  Set(", model.Range(op.first, op.end).ToString(),
                    ", ", PageStateName(op.state), ")\n");
  }
  return absl::StrCat(text, "then: ", Replay<Map>(model, ops));
}

TEST(PageStateMapPropertyTest, AgreesWithTheModel) {
  const uint64_t seed =
      FromEnvironment("CLOISTER_TEST_SEED", std::random_device()());
  const uint64_t total = FromEnvironment("CLOISTER_TEST_OPS", 1000000);
  std::cout << "CLOISTER_TEST_SEED=" << seed << " CLOISTER_TEST_OPS=" << total
            << std::endl;
  std::mt19937_64 random(seed);
  // Short episodes meet the empty map often; long ones grow tall trees.
  uint64_t done = 0;
  for (uint64_t episode = 0; done < total; ++episode) {
    const uint64_t lengths[] = {50, 500, 5000, 20000};
    uint64_t count = std::min(lengths[episode % 4], total - done);
    std::string wrong = Episode<PageStateMap>(random, count);
    ASSERT_EQ(wrong, "") << "seed " << seed << ", episode " << episode;
    done += count;
  }
}

// A map that goes wrong once two aliased single pages were set.
class BrokenMap : public PageStateMap {
 public:
  absl::Status Set(const GuestRange& range, PageState state) {
    if (range.size() == kPageSize && state == PageState::kAliased &&
        ++aliased_ >= 2) {
      state = PageState::kShared;
    }
    return PageStateMap::Set(range, state);
  }

 private:
  int aliased_ = 0;
};

TEST(PageStateMapPropertyTest, FindsAndShrinksAMistake) {
  std::mt19937_64 random(1);
  std::string wrong = Episode<BrokenMap>(random, 2000);
  EXPECT_NE(wrong.find("shortest sequence, 2 operations"), std::string::npos)
      << wrong;
}

}  // namespace
}  // namespace cloister::memory
