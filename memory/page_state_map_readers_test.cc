// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map_readers.h"

#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::memory::page_state_internal {
namespace {

TEST(ReaderSlotsTest, NothingHoldsGarbageBackWithoutReaders) {
  ReaderSlots slots;
  EXPECT_EQ(slots.Oldest(), UINT64_MAX);
  { ReaderSlots::Guard guard(&slots); }
  EXPECT_EQ(slots.Oldest(), UINT64_MAX);
}

TEST(ReaderSlotsTest, AnEarlierReaderHoldsGarbageBackUntilItLeaves) {
  ReaderSlots slots;
  std::optional<ReaderSlots::Guard> early(&slots);
  uint64_t tag = slots.StartEpoch();
  EXPECT_LT(slots.Oldest(), tag);
  ReaderSlots::Guard late(&slots);
  EXPECT_LT(slots.Oldest(), tag);
  early.reset();
  EXPECT_GE(slots.Oldest(), tag);
}

TEST(ReaderSlotsTest, MoreReadersThanSlotsHoldEverythingBack) {
  ReaderSlots slots;
  std::vector<std::unique_ptr<ReaderSlots::Guard>> guards;
  for (int i = 0; i < 100; ++i) {
    guards.push_back(std::make_unique<ReaderSlots::Guard>(&slots));
  }
  uint64_t tag = slots.StartEpoch();
  EXPECT_EQ(slots.Oldest(), 0u);
  // The ones without a slot are the last to have come.
  guards.resize(8);
  EXPECT_GT(slots.Oldest(), 0u);
  EXPECT_LT(slots.Oldest(), tag);
  guards.clear();
  EXPECT_EQ(slots.Oldest(), UINT64_MAX);
}

// What the slots are for: a reader never touches a freed object.
TEST(ReaderSlotsTest, FreedObjectsAreNotInUse) {
  struct Object {
    std::atomic<bool> alive{true};
    int payload = 0;  // Not atomic: TSan sees an early free or reuse.
  };
  ReaderSlots slots;
  std::atomic<Object*> root{new Object};
  std::atomic<bool> done{false};
  std::vector<std::thread> readers;
  std::atomic<int> dead{0};
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!done.load()) {
        ReaderSlots::Guard guard(&slots);
        Object* object = root.load();
        if (!object->alive.load() || object->payload < 0) dead.fetch_add(1);
      }
    });
  }
  struct Retired {
    Object* object;
    uint64_t tag;
  };
  std::vector<Retired> retired;
  int freed = 0;
  // A reader that loses its CPU holds everything back until it runs again.
  for (int i = 0; i < 20000 || freed == 0; ++i) {
    auto* next = new Object;
    next->payload = i;
    Object* old = root.exchange(next);
    retired.push_back({old, slots.StartEpoch()});
    uint64_t oldest = slots.Oldest();
    while (!retired.empty() && retired.front().tag <= oldest) {
      retired.front().object->alive.store(false);
      retired.front().object->payload = -1;
      delete retired.front().object;
      retired.erase(retired.begin());
      ++freed;
    }
  }
  done.store(true);
  for (std::thread& reader : readers) reader.join();
  for (const Retired& r : retired) delete r.object;
  delete root.load();
  EXPECT_EQ(dead.load(), 0);
  EXPECT_GT(freed, 0);
}

}  // namespace
}  // namespace cloister::memory::page_state_internal
