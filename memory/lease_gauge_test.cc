// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/lease_gauge.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

TEST(LeaseGaugeTest, AddsUpWhatIsLeased) {
  LeaseGauge gauge;
  EXPECT_EQ(gauge.Total(), 0u);
  gauge.Add(Range(0x1ffe, 4));
  gauge.Add(Range(0x1ffe, 4));
  gauge.Add(Range(uint64_t{1} << 40, 0x2000));
  EXPECT_EQ(gauge.Total(), 0x2008u);
  gauge.Subtract(Range(uint64_t{1} << 40, 0x2000));
  gauge.Subtract(Range(0x1ffe, 4));
  EXPECT_EQ(gauge.Total(), 4u);
}

TEST(LeaseGaugeTest, IsNeverLessThanWhatStays) {
  constexpr uint64_t kStays = 0x5000;
  constexpr uint64_t kThreads = 3, kMost = 0x3000;
  LeaseGauge gauge;
  gauge.Add(Range(0, kStays));
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&gauge, &done, t] {
      for (uint64_t i = 0; !done; ++i) {
        const GuestRange range =
            Range((t * 7 + i) << kPageShift, 1 + i % kMost);
        gauge.Add(range);
        gauge.Subtract(range);
      }
    });
  }
  for (int i = 0; i < 20000; ++i) {
    const uint64_t total = gauge.Total();
    ASSERT_GE(total, kStays);
    // A reader may see a thread's lease in one part and its next in another.
    ASSERT_LE(total, kStays + kThreads * 64 * kMost);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gauge.Total(), kStays);
}

}  // namespace
}  // namespace cloister::memory
