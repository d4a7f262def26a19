// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/counter.h"

#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

TEST(CounterTest, StartsAtNothingAndAddsUp) {
  Counter counter;
  EXPECT_EQ(counter.value(), 0u);
  counter.Add();
  counter.Add(41);
  counter.Add(0);
  EXPECT_EQ(counter.value(), 42u);
}

TEST(CounterTest, ThreadsLoseNothingAndReadersNeverSeeLess) {
  constexpr int kThreads = 4;
  constexpr uint64_t kEach = 20000;
  Counter counter;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (uint64_t n = 0; n < kEach; ++n) counter.Add();
    });
  }
  uint64_t seen = 0;
  while (seen < kThreads * kEach) {
    const uint64_t now = counter.value();
    ASSERT_GE(now, seen);
    ASSERT_LE(now, kThreads * kEach);
    seen = now;
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), kThreads * kEach);
}

}  // namespace
}  // namespace cloister::devices::virtio
