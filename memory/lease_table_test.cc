// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/lease_table.h"

#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/memory/interleavings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::Optional;
using ::testing::Pair;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr LeaseTable::Deadline kNow = LeaseTable::Deadline::min();
constexpr LeaseTable::Deadline kNever = LeaseTable::Deadline::max();

enum class Refusal { kBlocked, kState };

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}
GuestRange Pages(uint64_t first, uint64_t count) {
  return Range(first * kPageSize, count * kPageSize);
}
std::optional<Refusal> Fine() { return std::nullopt; }
std::optional<Refusal> Bad() { return Refusal::kState; }

// A deadline that only a test that hangs would reach.
LeaseTable::Deadline Later() {
  return std::chrono::steady_clock::now() + std::chrono::minutes(10);
}

std::unique_ptr<LeaseTable> TableFor(const GuestRange& range) {
  auto table = LeaseTable::Create();
  EXPECT_OK(table);
  EXPECT_OK((*table)->Cover(range));
  return *std::move(table);
}

std::vector<std::pair<GuestRange, bool>> RunsOf(const LeaseTable& table,
                                                const GuestRange& range) {
  std::vector<std::pair<GuestRange, bool>> runs;
  table.ForEachRun(range, [&](const GuestRange& run, bool leased) {
    runs.emplace_back(run, leased);
  });
  return runs;
}

TEST(LeaseTableTest, CoversWhatItWasTold) {
  auto table = TableFor(Range(kGiB, kGiB + 1));  // the third GiB too, then
  EXPECT_TRUE(table->Covers(Range(kGiB, 2 * kGiB)));
  EXPECT_FALSE(table->Covers(Range(kGiB - 1, 2)));
  EXPECT_FALSE(table->Covers(Range(3 * kGiB - 1, 2)));
  EXPECT_FALSE(table->Covers(Range(0, UINT64_MAX)));
}

TEST(LeaseTableTest, EndsAtTheEndOfTheMap) {
  constexpr uint64_t kEnd = uint64_t{1} << 52;
  auto table = TableFor(Range(kEnd - 1, 1));
  EXPECT_TRUE(table->Covers(Range(kEnd - kGiB, kGiB)));
  EXPECT_FALSE(table->Covers(Range(kEnd - 1, 2)));
  EXPECT_FALSE(table->Covers(Range(UINT64_MAX, 1)));
  EXPECT_THAT(table->Cover(Range(kEnd, 1)),
              base::StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(table->Cover(Range(UINT64_MAX, 1)),
              base::StatusIs(absl::StatusCode::kInvalidArgument));
  const GuestRange last = Range(kEnd - 1, 1);
  ASSERT_EQ(table->TryAcquire(last, Refusal::kBlocked, Fine), std::nullopt);
  EXPECT_TRUE(table->AnyLeased(Range(kEnd - kGiB, kGiB)));
  EXPECT_THAT(
      RunsOf(*table, Range(kEnd - 3 * kPageSize, 3 * kPageSize)),
      ElementsAre(Pair(Range(kEnd - 3 * kPageSize, 2 * kPageSize), false),
                  Pair(Range(kEnd - kPageSize, kPageSize), true)));
  table->Release(last);
  EXPECT_FALSE(table->AnyLeased(Range(kEnd - kGiB, kGiB)));
}

TEST(LeaseTableTest, RefusedLeasesLeaveNoCount) {
  auto table = TableFor(Range(0, kGiB));
  const GuestRange range = Range(0x1234, 5 * kMiB);
  EXPECT_THAT(table->TryAcquire(range, Refusal::kBlocked, Bad),
              Optional(Eq(Refusal::kState)));
  EXPECT_FALSE(table->AnyLeased(Range(0, kGiB)));
  ASSERT_TRUE(table->BlockAndWait(Pages(3, 1), kNow));
  EXPECT_THAT(table->TryAcquire(range, Refusal::kBlocked, Fine),
              Optional(Eq(Refusal::kBlocked)));
  EXPECT_FALSE(table->AnyLeased(Range(0, kGiB)));
}

TEST(LeaseTableTest, ALeaseTakesWholePages) {
  auto table = TableFor(Range(0, kGiB));
  const GuestRange range = Range(2 * kPageSize - 1, 2);
  ASSERT_EQ(table->TryAcquire(range, Refusal::kBlocked, Fine), std::nullopt);
  EXPECT_THAT(RunsOf(*table, Pages(0, 4)),
              ElementsAre(Pair(Pages(0, 1), false), Pair(Pages(1, 2), true),
                          Pair(Pages(3, 1), false)));
  EXPECT_TRUE(table->AnyLeased(Range(3 * kPageSize - 1, 1)));
  EXPECT_FALSE(table->AnyLeased(Range(3 * kPageSize, kGiB / 2)));
  table->Release(range);
  EXPECT_THAT(RunsOf(*table, Pages(0, 4)),
              ElementsAre(Pair(Pages(0, 4), false)));
}

// Every deadline passes, and not before something has happened.
struct LateEnv : RealLeaseEnv {
  class Notifier : public LeaseNotifier {
   public:
    static inline std::function<void()> meanwhile;
    bool WaitPast(uint64_t, Deadline) {
      meanwhile();
      return false;
    }
  };
};

TEST(LeaseTableTest, ALeaseThatEndsAsTheDeadlinePassesIsNotWaitedForInVain) {
  auto made = BasicLeaseTable<LateEnv>::Create();
  ASSERT_OK(made);
  auto& table = **made;
  ASSERT_OK(table.Cover(Pages(0, 4)));
  ASSERT_EQ(table.TryAcquire(Pages(1, 1), Refusal::kBlocked, Fine),
            std::nullopt);
  LateEnv::Notifier::meanwhile = [] {};
  EXPECT_FALSE(table.BlockAndWait(Pages(0, 2), kNow));
  LateEnv::Notifier::meanwhile = [&table] { table.Release(Pages(1, 1)); };
  EXPECT_TRUE(table.WaitIdle(Pages(0, 2), kNow));
}

TEST(LeaseTableTest, BlockingIsExactAndEndsWithUnblock) {
  auto table = TableFor(Range(0, 2 * kGiB));
  // More than a word of bits on both sides of a leaf's end.
  const uint64_t edge = kGiB / kPageSize;
  const GuestRange range = Pages(edge - 100, 200);
  ASSERT_TRUE(table->BlockAndWait(range, kNow));
  for (uint64_t page = edge - 101; page <= edge + 100; ++page) {
    const bool blocked = page >= edge - 100 && page < edge + 100;
    ASSERT_EQ(table->TryAcquire(Pages(page, 1), Refusal::kBlocked, Fine) ==
                  Refusal::kBlocked,
              blocked)
        << page;
    if (!blocked) table->Release(Pages(page, 1));
  }
  table->Unblock(Pages(edge - 100, 150));
  EXPECT_EQ(table->TryAcquire(Pages(edge - 100, 150), Refusal::kBlocked, Fine),
            std::nullopt);
  EXPECT_THAT(table->TryAcquire(Pages(edge + 50, 1), Refusal::kBlocked, Fine),
              Optional(Eq(Refusal::kBlocked)));
}

TEST(LeaseTableTest, WaitingThatTimesOutKeepsTheRangeBlocked) {
  auto table = TableFor(Range(0, kGiB));
  ASSERT_EQ(table->TryAcquire(Pages(4, 2), Refusal::kBlocked, Fine),
            std::nullopt);
  EXPECT_FALSE(table->BlockAndWait(Pages(0, 5), kNow));
  EXPECT_FALSE(table->notifier().HasWaiters());
  EXPECT_THAT(table->TryAcquire(Pages(0, 1), Refusal::kBlocked, Fine),
              Optional(Eq(Refusal::kBlocked)));
  EXPECT_FALSE(table->WaitIdle(Pages(0, 5), kNow));
  table->Release(Pages(4, 2));
  EXPECT_TRUE(table->WaitIdle(Pages(0, 5), kNow));
  EXPECT_THAT(table->TryAcquire(Pages(0, 1), Refusal::kBlocked, Fine),
              Optional(Eq(Refusal::kBlocked)));
  table->Unblock(Pages(0, 5));
  EXPECT_EQ(table->TryAcquire(Pages(0, 1), Refusal::kBlocked, Fine),
            std::nullopt);
}

TEST(LeaseTableTest, AWaiterSleepsUntilTheLastLeaseEnds) {
  auto table = TableFor(Range(0, kGiB));
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(table->TryAcquire(Pages(7, 1), Refusal::kBlocked, Fine),
              std::nullopt);
  }
  std::atomic<int> left{2};
  std::atomic<int> left_then{-1};
  std::thread converter([&] {
    EXPECT_TRUE(table->BlockAndWait(Pages(0, 512), Later()));
    left_then = left.load();
  });
  while (!table->notifier().HasWaiters()) std::this_thread::yield();
  left = 1;
  table->Release(Pages(7, 1));
  // Other leases' ends wake it, and are not what it waits for.
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(table->TryAcquire(Pages(600, 1), Refusal::kBlocked, Fine),
              std::nullopt);
    table->Release(Pages(600, 1));
  }
  EXPECT_EQ(left_then, -1);
  left = 0;
  table->Release(Pages(7, 1));
  converter.join();
  EXPECT_EQ(left_then, 0);
  EXPECT_FALSE(table->notifier().HasWaiters());
}

// A window of pages around the end of a leaf, with all sizes of block in it.
class LeaseModel {
 public:
  static constexpr uint64_t kPages = 2048;
  static constexpr uint64_t kBase = kGiB / kPageSize - kPages / 2;

  explicit LeaseModel(uint64_t seed) : random_(seed) {}

  void Run(int steps) {
    for (int i = 0; i < steps; ++i) {
      Step();
      Compare();
      if (::testing::Test::HasFatalFailure()) return;
    }
    for (const GuestRange& range : held_) table_->Release(range);
    EXPECT_FALSE(table_->AnyLeased(Range(0, 2 * kGiB)));
  }

 private:
  // Bytes anywhere in the window; often large, aligned and whole pages.
  GuestRange Any() {
    uint64_t first = random_() % kPages;
    if (random_() % 4 == 0) first = first / 512 * 512;
    const uint64_t most = kPages - first;
    const uint64_t count =
        1 +
        random_() % (random_() % 2 == 0 ? most : std::min<uint64_t>(20, most));
    const uint64_t skip = random_() % 2 == 0 ? 0 : random_() % kPageSize;
    return Range((kBase + first) * kPageSize + skip, count * kPageSize - skip);
  }
  static uint64_t First(const GuestRange& range) {
    return range.start().gfn().value() - kBase;
  }
  static uint64_t Last(const GuestRange& range) {
    return range.last().gfn().value() - kBase;
  }

  void Step() {
    const GuestRange range = Any();
    if (random_() % 8 == 0) {
      Block(range);
    } else if (held_.size() > 6 || (!held_.empty() && random_() % 3 == 0)) {
      std::swap(held_[random_() % held_.size()], held_.back());
      Count(held_.back(), -1);
      table_->Release(held_.back());
      held_.pop_back();
    } else {
      Acquire(range);
    }
  }
  void Acquire(const GuestRange& range) {
    const bool state_is_bad = random_() % 8 == 0;
    std::optional<Refusal> want;
    if (state_is_bad) want = Refusal::kState;
    if (blocked_.has_value() && First(*blocked_) <= Last(range) &&
        First(range) <= Last(*blocked_)) {
      want = Refusal::kBlocked;
    }
    ASSERT_EQ(
        table_->TryAcquire(range, Refusal::kBlocked, state_is_bad ? Bad : Fine),
        want);
    if (want.has_value()) return;
    Count(range, 1);
    held_.push_back(range);
  }
  void Block(const GuestRange& range) {
    if (blocked_.has_value()) {
      table_->Unblock(*blocked_);
      blocked_.reset();
      return;
    }
    ASSERT_EQ(table_->BlockAndWait(range, kNow), !Leased(range));
    blocked_ = range;
  }
  void Count(const GuestRange& range, int change) {
    for (uint64_t i = First(range); i <= Last(range); ++i) counts_[i] += change;
  }
  bool Leased(const GuestRange& range) const {
    for (uint64_t i = First(range); i <= Last(range); ++i) {
      if (counts_[i] != 0) return true;
    }
    return false;
  }
  void Compare() {
    const GuestRange range = Any();
    ASSERT_EQ(table_->AnyLeased(range), Leased(range)) << range.ToString();
    uint64_t next = First(range);
    for (const auto& [run, leased] : RunsOf(*table_, range)) {
      ASSERT_EQ(First(run), next);
      if (next != First(range)) {
        ASSERT_NE(leased, counts_[next - 1] != 0) << "runs are not maximal";
      }
      for (; next <= Last(run); ++next) ASSERT_EQ(counts_[next] != 0, leased);
    }
    ASSERT_EQ(next, Last(range) + 1);
  }

  std::mt19937_64 random_;
  std::unique_ptr<LeaseTable> table_ = TableFor(Range(0, 2 * kGiB));
  std::vector<int> counts_ = std::vector<int>(kPages);
  std::vector<GuestRange> held_;
  std::optional<GuestRange> blocked_;
};

TEST(LeaseTableTest, AgreesWithACountForEachPage) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    LeaseModel(seed).Run(1000);
  }
}

// Every order of the steps of leases and conversions, on the real table.
//
// SteppedEnv stands for the machine: each access to a counter, to the blocked
// bits and to the notifier is a step, after which the other side may go on.
template <bool kLeaseSwapped, bool kConversionSwapped>
struct SteppedEnv {
  static constexpr std::array<int, 2> kLevelShifts = {0, 1};
  static constexpr bool kLeaseChecksFirst = kLeaseSwapped;
  static constexpr bool kConversionWaitsFirst = kConversionSwapped;

  template <typename T>
  static T Load(T* cell) {
    Interleavings::Step();
    return *cell;
  }
  template <typename T>
  static void Add(T* cell, T value) {
    Interleavings::Step();
    *cell += value;
  }
  template <typename T>
  static void SetBits(T* cell, T bits) {
    Interleavings::Step();
    *cell |= bits;
  }
  template <typename T>
  static void ClearBits(T* cell, T bits) {
    Interleavings::Step();
    *cell &= static_cast<T>(~bits);
  }

  // Sleeps without a deadline: only when nobody would ever wake the sleeper
  // does its wait fail.
  class Notifier {
   public:
    void AddWaiter() { Stepped() += 1; }
    void RemoveWaiter() { Stepped() -= 1; }
    bool HasWaiters() { return Stepped() != 0; }
    void Notify() {
      Interleavings::Step();
      ++epoch_;
    }
    uint64_t Epoch() {
      Interleavings::Step();
      return epoch_;
    }
    bool WaitPast(uint64_t epoch, LeaseTable::Deadline) {
      const bool woken =
          Interleavings::Wait([this, epoch] { return epoch_ != epoch; });
      if (!woken) ++lost_wakeups_;
      return woken;
    }
    int lost_wakeups() const { return lost_wakeups_; }

   private:
    int& Stepped() {
      Interleavings::Step();
      return waiters_;
    }
    int waiters_ = 0;
    uint64_t epoch_ = 0;
    int lost_wakeups_ = 0;
  };
};
using RightOrder = SteppedEnv<false, false>;
using LeaseSwapped = SteppedEnv<true, false>;
using ConversionSwapped = SteppedEnv<false, true>;

// Pages that are leased, and taken away, by the steps that SharedView and the
// broker make.
template <typename Env>
class Pool {
 public:
  Pool() {
    auto table = BasicLeaseTable<Env>::Create();
    EXPECT_OK(table);
    table_ = *std::move(table);
    EXPECT_OK(table_->Cover(All()));
  }

  std::function<void()> Leases(const GuestRange& range) {
    return [this, range] { Lease(range); };
  }
  std::function<void()> Converts(const GuestRange& range) {
    return [this, range] { Convert(range); };
  }
  // Tries the orders of `tasks` until an access after a page was taken away,
  // a conversion that never wakes, or a count that stays.
  uint64_t Explore(const std::vector<std::function<void()>>& tasks,
                   int max_preemptions = Interleavings::kUnbounded) {
    return Interleavings(max_preemptions).Explore(tasks, [this] {
      private_ = std::vector<bool>(kPages);
      taken_ = private_;
      if (table_->AnyLeased(All())) ++leaks;
      if (Blocked()) ++leaks;
      return stray_accesses + failed_waits + lost_wakeups() + leaks == 0;
    });
  }

  int lost_wakeups() const { return table_->notifier().lost_wakeups(); }
  int stray_accesses = 0;
  int failed_waits = 0;
  int leaks = 0;
  // What happened, over all orders.
  int granted = 0;
  int blocked = 0;
  int refused = 0;

 private:
  static constexpr uint64_t kPages = 8;
  static GuestRange All() { return Pages(0, kPages); }

  bool AnyOf(const std::vector<bool>& pages, const GuestRange& range) const {
    for (uint64_t i = range.start().gfn().value();
         i <= range.last().gfn().value(); ++i) {
      if (pages[i]) return true;
    }
    return false;
  }
  static void Assign(std::vector<bool>* pages, const GuestRange& range) {
    for (uint64_t i = range.start().gfn().value();
         i <= range.last().gfn().value(); ++i) {
      (*pages)[i] = true;
    }
  }
  bool Blocked() {
    if (table_->TryAcquire(All(), Refusal::kBlocked, Fine).has_value()) {
      return true;
    }
    table_->Release(All());
    return false;
  }

  void Lease(const GuestRange& range) {
    std::optional<Refusal> refusal =
        table_->TryAcquire(range, Refusal::kBlocked, [&] {
          Interleavings::Step();
          return AnyOf(private_, range) ? Bad() : Fine();
        });
    if (refusal.has_value()) {
      ++(*refusal == Refusal::kBlocked ? blocked : refused);
      return;
    }
    ++granted;
    Interleavings::Step();
    if (AnyOf(taken_, range)) ++stray_accesses;
    table_->Release(range);
  }
  void Convert(const GuestRange& range) {
    if (!table_->BlockAndWait(range, kNever)) ++failed_waits;
    Assign(&taken_, range);  // seen zero: from here on nobody may touch it
    Interleavings::Step();
    Assign(&private_, range);
    table_->Unblock(range);
  }

  std::unique_ptr<BasicLeaseTable<Env>> table_;
  std::vector<bool> private_ = std::vector<bool>(kPages);
  std::vector<bool> taken_ = std::vector<bool>(kPages);
};

template <typename Env>
void ExpectSafe(const Pool<Env>& pool) {
  EXPECT_EQ(pool.stray_accesses, 0);
  EXPECT_EQ(pool.failed_waits, 0);
  EXPECT_EQ(pool.lost_wakeups(), 0);
  EXPECT_EQ(pool.leaks, 0);
  // The orders really differed.
  EXPECT_GT(pool.granted, 0);
  EXPECT_GT(pool.blocked, 0);
  EXPECT_GT(pool.refused, 0);
}

TEST(LeaseOrderTest, NoOrderOfALeaseAndAConversionLetsAnAccessThrough) {
  Pool<RightOrder> pool;
  EXPECT_GT(
      pool.Explore({pool.Leases(Pages(1, 1)), pool.Converts(Pages(1, 1))}),
      500u);
  ExpectSafe(pool);
}

TEST(LeaseOrderTest, NorDoBlocksOfSeveralPages) {
  {
    SCOPED_TRACE("a lease counted in a large block, one page converted");
    Pool<RightOrder> pool;
    pool.Explore({pool.Leases(Pages(2, 2)), pool.Converts(Pages(3, 1))});
    ExpectSafe(pool);
  }
  {
    SCOPED_TRACE("a lease counted in two blocks, the second converted");
    Pool<RightOrder> pool;
    pool.Explore({pool.Leases(Pages(1, 3)), pool.Converts(Pages(2, 1))}, 4);
    ExpectSafe(pool);
  }
  {
    SCOPED_TRACE("a large block converted, one page leased");
    Pool<RightOrder> pool;
    pool.Explore({pool.Leases(Pages(3, 1)), pool.Converts(Pages(2, 2))}, 4);
    ExpectSafe(pool);
  }
}

TEST(LeaseOrderTest, NorDoSeveralLeasesAndConversions) {
  {
    SCOPED_TRACE("two leases");
    Pool<RightOrder> pool;
    pool.Explore({pool.Leases(Pages(1, 1)), pool.Leases(Pages(0, 2)),
                  pool.Converts(Pages(1, 1))},
                 2);
    ExpectSafe(pool);
  }
  {
    SCOPED_TRACE("two conversions of different pages");
    Pool<RightOrder> pool;
    pool.Explore({pool.Leases(Pages(1, 2)), pool.Converts(Pages(1, 1)),
                  pool.Converts(Pages(2, 1))},
                 2);
    ExpectSafe(pool);
  }
}

TEST(LeaseOrderTest, ALeaseThatChecksBeforeItCountsIsCaught) {
  Pool<LeaseSwapped> pool;
  pool.Explore({pool.Leases(Pages(1, 1)), pool.Converts(Pages(1, 1))});
  EXPECT_EQ(pool.stray_accesses, 1);
}

TEST(LeaseOrderTest, AConversionThatWaitsBeforeItBlocksIsCaught) {
  Pool<ConversionSwapped> pool;
  pool.Explore({pool.Leases(Pages(1, 1)), pool.Converts(Pages(1, 1))});
  EXPECT_EQ(pool.stray_accesses, 1);
}

// The same with the real machine's threads, atomics and sleeping. The pages'
// contents are plain memory: ThreadSanitizer reports an access that the
// protocol does not order with the conversions.
class LeaseThreadsTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 64;
  static constexpr uint64_t kTaken = 0xdead;

  static GuestRange Any(std::mt19937_64& random) {
    const uint64_t first = random() % kPages;
    return Pages(first, 1 + random() % std::min<uint64_t>(kPages - first, 20));
  }
  template <typename Visit>
  void ForEachPage(const GuestRange& range, Visit visit) {
    for (uint64_t i = range.start().gfn().value();
         i <= range.last().gfn().value(); ++i) {
      visit(content_[i]);
    }
  }

  // Leases until told to stop.
  void Use(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!stop_.load(std::memory_order_relaxed)) {
      const GuestRange range = Any(random);
      if (table_->TryAcquire(range, Refusal::kBlocked, Fine).has_value()) {
        continue;
      }
      granted_.fetch_add(1, std::memory_order_relaxed);
      ForEachPage(range, [&](const uint64_t& page) {
        if (page == kTaken) stray_.fetch_add(1, std::memory_order_relaxed);
      });
      table_->Release(range);
    }
  }
  // Takes pages of [first, first + count) away and gives them back.
  void Convert(uint64_t first, uint64_t count, int rounds) {
    std::mt19937_64 random(first);
    for (int i = 0; i < rounds; ++i) {
      const uint64_t skip = random() % count;
      const GuestRange range =
          Pages(first + skip, 1 + random() % (count - skip));
      ASSERT_TRUE(table_->BlockAndWait(range, Later()));
      ForEachPage(range, [](uint64_t& page) { page = kTaken; });
      std::this_thread::yield();
      ForEachPage(range, [](uint64_t& page) { page = 0; });
      table_->Unblock(range);
    }
  }

  std::unique_ptr<LeaseTable> table_ = TableFor(Pages(0, kPages));
  std::vector<uint64_t> content_ = std::vector<uint64_t>(kPages);
  std::atomic<bool> stop_{false};
  std::atomic<int> granted_{0};
  std::atomic<int> stray_{0};
};

TEST_F(LeaseThreadsTest, NobodyTouchesWhatAConversionTook) {
  std::vector<std::thread> users;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    users.emplace_back([this, seed] { Use(seed); });
  }
  while (granted_.load() < 100) std::this_thread::yield();
  std::thread other([this] { Convert(0, kPages / 2, 2000); });
  Convert(kPages / 2, kPages / 2, 2000);
  other.join();
  stop_ = true;
  for (std::thread& user : users) user.join();
  EXPECT_EQ(stray_.load(), 0);
  EXPECT_FALSE(table_->AnyLeased(Pages(0, kPages)));
  EXPECT_EQ(table_->TryAcquire(Pages(0, kPages), Refusal::kBlocked, Fine),
            std::nullopt);
}

}  // namespace
}  // namespace cloister::memory
