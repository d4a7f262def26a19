// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/mutex.h"

#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::base {
namespace {

struct Counter {
  Mutex mutex;
  CondVar changed;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(MutexTest, LockedCounterLosesNothing) {
  Counter counter;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) {
        MutexLock lock(&counter.mutex);
        ++counter.value;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  MutexLock lock(&counter.mutex);
  EXPECT_EQ(counter.value, 40000);
}

TEST(MutexTest, TryLockFailsWhileHeld) {
  Mutex mutex;
  MutexLock lock(&mutex);
  bool taken = false;
  std::thread([&] {
    if (mutex.TryLock()) {
      taken = true;
      mutex.Unlock();
    }
  }).join();
  EXPECT_FALSE(taken);
}

TEST(MutexTest, CondVarWakesWaiter) {
  Counter counter;
  std::thread setter([&] {
    MutexLock lock(&counter.mutex);
    counter.value = 1;
    counter.changed.Signal();
  });
  {
    MutexLock lock(&counter.mutex);
    while (counter.value == 0) counter.changed.Wait(&counter.mutex);
    EXPECT_EQ(counter.value, 1);
  }
  setter.join();
}

TEST(MutexTest, WaitUntilEndsAtItsDeadline) {
  Counter counter;
  MutexLock lock(&counter.mutex);
  auto deadline = std::chrono::steady_clock::now();
  while (counter.changed.WaitUntil(&counter.mutex, deadline)) {
  }
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
}

// ThreadSanitizer must see a race where there is one; that it stays silent
// about a locked counter is LockedCounterLosesNothing above.
#if defined(__SANITIZE_THREAD__)
void Race() {
  int unprotected = 0;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) ++unprotected;
  });
  for (int i = 0; i < 1000; ++i) ++unprotected;
  other.join();
}

TEST(MutexDeathTest, ThreadSanitizerReportsADeliberateRace) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        for (int i = 0; i < 100; ++i) Race();
      },
      "data race");
}
#endif

}  // namespace
}  // namespace cloister::base
