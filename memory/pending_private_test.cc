// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/pending_private.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {

class SharedViewTestPeer {
 public:
  static LeaseTable& Leases(SharedView* view) { return view->leases(); }
};

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kPages = 32;
constexpr LeaseTable::Deadline kNow = LeaseTable::Deadline::min();

GuestRange Pages(uint64_t first, uint64_t count) {
  return *GuestRange::Create(GuestAddress(first * kPageSize),
                             count * kPageSize);
}

// A broker in small: converts pages of kPages shared ones, never waits for
// leases, and leaves what is leased to a PendingPrivate.
class PendingPrivateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto mapping = HostMapping::CreateMemfd("ram", kPages * kPageSize, {});
    ASSERT_OK(mapping);
    auto region = MemoryRegion::Create(GuestAddress(0), *std::move(mapping));
    ASSERT_OK(region);
    std::vector<MemoryRegion> regions;
    regions.push_back(*std::move(region));
    ASSERT_OK_AND_ASSIGN(GuestMemory memory,
                         GuestMemory::Create(std::move(regions)));
    memory_ = std::make_unique<GuestMemory>(std::move(memory));
    ASSERT_OK(states_.Set(Pages(0, kPages), PageState::kShared));
    ASSERT_OK_AND_ASSIGN(view_, SharedView::Create(memory_.get(), &states_));
    pending_ = std::make_unique<PendingPrivate>(
        view_.get(), [this](const GuestRange& range) { FreeIdle(range); });
  }

  std::optional<Lease> Acquire(uint64_t first, uint64_t count) {
    auto lease = view_->Acquire(Pages(first, count));
    EXPECT_OK(lease);
    return *std::move(lease);
  }

  void MakePrivate(const GuestRange& range) {
    base::MutexLock lock(&broker_);
    const bool idle = leases().BlockAndWait(range, kNow);
    ASSERT_OK(states_.Set(range, PageState::kPrivate));
    leases().Unblock(range);
    if (!idle) pending_->Add(range);
  }
  void MakeShared(const GuestRange& range) {
    base::MutexLock lock(&broker_);
    ASSERT_OK(states_.Set(range, PageState::kShared));
    pending_->Remove(range);
  }

  void FreeIdle(const GuestRange& range) {
    base::MutexLock lock(&broker_);
    ++calls_;
    sigset_t blocked;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    if (::sigismember(&blocked, SIGTERM) != 1) ++signals_reach_the_thread_;
    for (const GuestRange& part : pending_->Inside(range)) {
      if (leases().AnyLeased(part)) ++freed_under_a_lease_;
      if (keep_) continue;
      freed_.push_back(part);
      pending_->Remove(part);
    }
    changed_.SignalAll();
  }
  // Waits until so many bytes are pending, and returns what was freed.
  std::vector<GuestRange> WaitForBytes(uint64_t bytes) {
    base::MutexLock lock(&broker_);
    while (pending_->bytes() != bytes) changed_.Wait(&broker_);
    return std::exchange(freed_, {});
  }
  void WaitForCalls(int calls) {
    base::MutexLock lock(&broker_);
    while (calls_ < calls) changed_.Wait(&broker_);
  }

  void TearDown() override {
    pending_.reset();
    EXPECT_EQ(freed_under_a_lease_, 0);
    EXPECT_EQ(signals_reach_the_thread_, 0);
  }

  LeaseTable& leases() { return SharedViewTestPeer::Leases(view_.get()); }

  std::unique_ptr<GuestMemory> memory_;
  PageStateMap states_;
  std::unique_ptr<SharedView> view_;
  base::Mutex broker_;  // holds all pages
  base::CondVar changed_;
  std::vector<GuestRange> freed_;
  int calls_ = 0;
  int freed_under_a_lease_ = 0;
  int signals_reach_the_thread_ = 0;
  bool keep_ = false;
  std::unique_ptr<PendingPrivate> pending_;
};

TEST_F(PendingPrivateTest, FreesWhenTheLeaseEnds) {
  std::optional<Lease> lease = Acquire(4, 2);
  MakePrivate(Pages(4, 2));
  EXPECT_EQ(pending_->bytes(), 2 * kPageSize);
  EXPECT_THAT(pending_->Inside(Pages(0, 5)), ElementsAre(Pages(4, 1)));
  EXPECT_THAT(pending_->Outside(Pages(3, 4)),
              ElementsAre(Pages(3, 1), Pages(6, 1)));
  // The lease goes on; nobody else gets one.
  EXPECT_OK(lease->Store<uint64_t>(0, 1, std::memory_order_relaxed));
  EXPECT_EQ(ShareRefusalOf(view_->Acquire(Pages(5, 1)).status()),
            ShareRefusal::kPrivate);
  lease.reset();
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(4, 2)));
  EXPECT_THAT(pending_->Inside(Pages(0, kPages)), IsEmpty());
}

// Each wait for `sentinel` means that the thread looked at the other pages.
TEST_F(PendingPrivateTest, WaitsForTheLastLease) {
  std::optional<Lease> first = Acquire(4, 1);
  std::optional<Lease> second = Acquire(3, 3);
  MakePrivate(Pages(4, 1));
  first.reset();
  std::optional<Lease> sentinel = Acquire(9, 1);
  MakePrivate(Pages(9, 1));
  sentinel.reset();
  EXPECT_THAT(WaitForBytes(kPageSize), ElementsAre(Pages(9, 1)));
  second.reset();
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(4, 1)));
}

TEST_F(PendingPrivateTest, FreesThePagesThatNobodyLeases) {
  std::optional<Lease> one = Acquire(4, 1);
  std::optional<Lease> two = Acquire(6, 2);
  MakePrivate(Pages(3, 6));
  EXPECT_THAT(WaitForBytes(3 * kPageSize),
              ElementsAre(Pages(3, 1), Pages(5, 1), Pages(8, 1)));
  two.reset();
  EXPECT_THAT(WaitForBytes(kPageSize), ElementsAre(Pages(6, 2)));
  one.reset();
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(4, 1)));
}

TEST_F(PendingPrivateTest, PagesSharedAgainAreKept) {
  std::optional<Lease> lease = Acquire(4, 2);
  MakePrivate(Pages(4, 2));
  MakeShared(Pages(4, 1));
  EXPECT_EQ(pending_->bytes(), kPageSize);
  EXPECT_OK(view_->Acquire(Pages(4, 1)));
  lease.reset();
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(5, 1)));
}

TEST_F(PendingPrivateTest, PagesMayBecomePendingAgain) {
  std::optional<Lease> lease = Acquire(4, 1);
  for (int i = 0; i < 10; ++i) {
    MakePrivate(Pages(4, 1));
    EXPECT_EQ(pending_->bytes(), kPageSize);
    MakeShared(Pages(4, 1));
    EXPECT_EQ(pending_->bytes(), 0u);
  }
  MakePrivate(Pages(4, 1));
  lease.reset();
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(4, 1)));
}

// The lease ends after the broker looked and before it adds the pages.
TEST_F(PendingPrivateTest, FreesWhatNobodyLeasesWhenItIsAdded) {
  pending_->Add(Pages(4, 1));
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(4, 1)));
}

TEST_F(PendingPrivateTest, LooksAgainAfterPagesThatCouldNotBeFreed) {
  {
    base::MutexLock lock(&broker_);
    keep_ = true;
  }
  pending_->Add(Pages(4, 1));
  WaitForCalls(1);
  EXPECT_EQ(pending_->bytes(), kPageSize);
  {
    base::MutexLock lock(&broker_);
    keep_ = false;
  }
  // The end of any lease will do.
  while (pending_->bytes() != 0) {
    Acquire(20, 1).reset();
    std::this_thread::yield();
  }
  EXPECT_THAT(WaitForBytes(0), ElementsAre(Pages(4, 1)));
}

TEST_F(PendingPrivateTest, GoesAwayWhilePagesAreLeased) {
  std::optional<Lease> lease = Acquire(4, 1);
  MakePrivate(Pages(4, 1));
  pending_.reset();
  EXPECT_THAT(freed_, IsEmpty());
  EXPECT_FALSE(leases().notifier().HasWaiters());
  lease.reset();
}

TEST_F(PendingPrivateTest, GoesAwayAfterTheCallThatIsUnderWay) {
  base::Mutex mutex;
  base::CondVar changed;
  bool running = false;
  bool may_end = false;
  std::atomic<bool> ended{false};
  auto pending =
      std::make_unique<PendingPrivate>(view_.get(), [&](const GuestRange&) {
        base::MutexLock lock(&mutex);
        running = true;
        changed.SignalAll();
        while (!may_end) changed.Wait(&mutex);
        ended = true;
      });
  pending->Add(Pages(4, 1));
  {
    base::MutexLock lock(&mutex);
    while (!running) changed.Wait(&mutex);
  }
  bool ended_first = false;
  std::thread destroyer([&] {
    pending.reset();
    ended_first = ended.load();
  });
  {
    base::MutexLock lock(&mutex);
    may_end = true;
    changed.SignalAll();
  }
  destroyer.join();
  EXPECT_TRUE(ended_first);
}

// Devices that hold on to pages while those are converted back and forth.
// `copies_` is plain memory that stands for the host's copy: freeing it writes,
// a lease reads. ThreadSanitizer reports what is not ordered.
class PendingPrivateThreadsTest : public PendingPrivateTest {
 protected:
  void SetUp() override {
    PendingPrivateTest::SetUp();
    pending_.reset();
    pending_ = std::make_unique<PendingPrivate>(
        view_.get(), [this](const GuestRange& range) { FreeCopies(range); });
  }

  // Between the thread's look at the leases and this, a page may have been
  // shared, leased, and made private again: so it looks again.
  void FreeCopies(const GuestRange& range) {
    base::MutexLock lock(&broker_);
    for (const GuestRange& part : pending_->Inside(range)) {
      leases().ForEachRun(part, [&](const GuestRange& run, bool leased) {
        if (leased) return;
        ++frees_;
        for (uint64_t i = run.start().gfn().value();
             i <= run.last().gfn().value(); ++i) {
          ++copies_[i];
        }
        pending_->Remove(run);
      });
    }
    changed_.SignalAll();
  }

  void Device(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!stop_.load()) {
      const uint64_t page = random() % kPages;
      auto lease = view_->Acquire(Pages(page, 1));
      if (!lease.ok()) continue;
      granted_.fetch_add(1);
      const int before = copies_[page];
      std::this_thread::yield();
      if (copies_[page] != before) changed_while_leased_.fetch_add(1);
    }
  }

  std::vector<int> copies_ = std::vector<int>(kPages);
  int frees_ = 0;  // under broker_
  std::atomic<bool> stop_{false};
  std::atomic<int> granted_{0};
  std::atomic<int> changed_while_leased_{0};
};

TEST_F(PendingPrivateThreadsTest, NothingIsFreedUnderALeaseOrLeftBehind) {
  std::thread one([this] { Device(1); });
  std::thread two([this] { Device(2); });
  while (granted_.load() < 50) std::this_thread::yield();
  std::mt19937_64 random(3);
  int frees = 0;
  for (int i = 0; i < 3000 || frees < 20; ++i) {
    const uint64_t first = random() % kPages;
    const GuestRange range =
        Pages(first, 1 + random() % std::min<uint64_t>(kPages - first, 4));
    MakePrivate(range);
    if (random() % 4 == 0) {
      WaitForBytes(0);
      base::MutexLock lock(&broker_);
      frees = frees_;
    }
    MakeShared(range);
  }
  MakePrivate(Pages(0, kPages));
  stop_ = true;
  one.join();
  two.join();
  WaitForBytes(0);
  EXPECT_EQ(changed_while_leased_.load(), 0);
  EXPECT_FALSE(leases().AnyLeased(Pages(0, kPages)));
}

}  // namespace
}  // namespace cloister::memory
