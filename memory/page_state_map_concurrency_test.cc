// SPDX-License-Identifier: Apache-2.0
//
// Readers beside writers; run under ThreadSanitizer too.
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/memory/page_state_map.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

constexpr uint64_t kGiB = 1 << 30;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

// Runs `read` on some threads until `write` returns. `read` has run at least
// once on each before `write` starts.
void Beside(const std::function<void(std::mt19937_64&)>& read,
            const std::function<void()>& write) {
  std::atomic<bool> done{false};
  std::atomic<int> reading{0};
  std::vector<std::thread> readers;
  for (uint64_t i = 0; i < 3; ++i) {
    readers.emplace_back([&, i] {
      std::mt19937_64 random(i);
      read(random);
      reading.fetch_add(1);
      while (!done.load()) read(random);
    });
  }
  while (reading.load() < 3) std::this_thread::yield();
  write();
  done.store(true);
  for (std::thread& reader : readers) reader.join();
}

// The writer keeps everything in one state at a time, or exactly half of it in
// each of two: whatever a reader sees must be one of these pictures.
TEST(PageStateMapConcurrencyTest, ReadersSeeSetsWholly) {
  PageStateMap map;
  const GuestRange all = Range(0, 4 * kGiB);
  const GuestRange low = Range(0, 2 * kGiB);
  ASSERT_OK(map.Set(all, PageState::kPrivate));
  std::atomic<int> wrong{0};
  Beside(
      [&](std::mt19937_64&) {
        std::vector<StateRange> seen;
        map.ForEachRange(all, [&](const StateRange& part) {
          seen.push_back(part);
          return true;
        });
        bool one = seen.size() == 1 && seen[0].range == all;
        bool half = seen.size() == 2 && seen[0].range == low &&
                    seen[0].state == PageState::kShared &&
                    seen[1].state == PageState::kPrivate;
        if (!one && !half) wrong.fetch_add(1);
      },
      [&] {
        for (int i = 0; i < 5000; ++i) {
          ASSERT_OK(map.Set(low, PageState::kShared));
          ASSERT_OK(map.Set(all, PageState::kPrivate));
        }
      });
  EXPECT_EQ(wrong.load(), 0);
}

// Blocks turn dense and sparse and nodes split and merge all the time; pages
// the writer leaves alone must never change for a reader.
TEST(PageStateMapConcurrencyTest, ChangesElsewhereDisturbNobody) {
  PageStateMap map;
  const uint64_t pages = kGiB / kPageSize;
  ASSERT_OK(map.Set(Range(0, kGiB), PageState::kPrivate));
  // Every eighth page is constant.
  for (uint64_t page = 0; page < pages; page += 8) {
    ASSERT_OK(map.Set(Range(page * kPageSize, kPageSize), PageState::kShared));
  }
  std::atomic<int> wrong{0};
  Beside(
      [&](std::mt19937_64& random) {
        uint64_t page = random() % pages / 8 * 8;
        GuestRange range = Range(page * kPageSize, kPageSize);
        if (map.Get(range.start()) != PageState::kShared) wrong.fetch_add(1);
        if (!map.IsWholly(range, PageState::kShared)) wrong.fetch_add(1);
      },
      [&] {
        std::mt19937_64 random(99);
        for (int i = 0; i < 20000; ++i) {
          // 1 to 7 pages between two constant ones.
          uint64_t page = random() % pages / 8 * 8 + 1 + random() % 7;
          uint64_t count = 1 + random() % (8 - page % 8);
          ASSERT_OK(map.Set(Range(page * kPageSize, count * kPageSize),
                            static_cast<PageState>(1 + random() % 2)));
        }
      });
  EXPECT_EQ(wrong.load(), 0);
}

// A runner reads the generation, then the state. If the page is in another
// state later, the generation must have told.
TEST(PageStateMapConcurrencyTest, NoChangeGoesUnnoticed) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, kGiB), PageState::kPrivate));
  std::atomic<int> unnoticed{0};
  Beside(
      [&](std::mt19937_64& random) {
        GuestAddress page(random() % 64 * kPageSize);
        uint64_t generation = map.CurrentGeneration();
        PageState before = map.Get(page);
        PageState after = map.Get(page);
        if (before != after && !map.ChangedSince(page, generation)) {
          unnoticed.fetch_add(1);
        }
      },
      [&] {
        std::mt19937_64 random(5);
        for (int i = 0; i < 30000; ++i) {
          uint64_t page = random() % 64;
          ASSERT_OK(map.Set(Range(page * kPageSize, kPageSize),
                            static_cast<PageState>(1 + random() % 2)));
        }
      });
  EXPECT_EQ(unnoticed.load(), 0);
}

TEST(PageStateMapConcurrencyTest, WritersTakeTurns) {
  PageStateMap map;
  std::vector<std::thread> writers;
  for (uint64_t writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&map, writer] {
      for (uint64_t i = 0; i < 3000; ++i) {
        // Interleaved pages: all writers work on the same leaves and nodes.
        EXPECT_OK(map.Set(Range((4 * i + writer) * kPageSize, kPageSize),
                          PageState::kShared));
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(map.CurrentGeneration(), 4u * 3000);
  EXPECT_EQ(map.entry_count(), 1u);
  EXPECT_EQ(map.bytes(PageState::kShared), 4 * 3000 * kPageSize);
}

// A reader that stays inside a visit holds memory back, and no longer.
TEST(PageStateMapConcurrencyTest, MemoryComesBackWhenALongReaderLeaves) {
  PageStateMap map;
  ASSERT_OK(map.Set(Range(0, kGiB), PageState::kPrivate));
  auto flip = [&map](int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_OK(map.Set(Range(0x5000, kPageSize),
                        i % 2 == 0 ? PageState::kShared : PageState::kPrivate));
    }
  };
  size_t held = 0;
  map.ForEachRange(Range(0, kGiB), [&](const StateRange&) {
    flip(20000);
    held = map.memory_bytes();
    return false;
  });
  flip(50000);
  EXPECT_GT(held, 500u << 10);
  EXPECT_LT(map.memory_bytes(), 64u << 10);
}

}  // namespace
}  // namespace cloister::memory
