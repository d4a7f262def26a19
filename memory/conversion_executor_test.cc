// SPDX-License-Identifier: Apache-2.0
//
// The steps of a conversion and every way in which they fail. What leads up to
// them is in conversion_broker_test.cc.
#include "cloister/memory/conversion_executor.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_request.h"
#include "cloister/memory/fake_backend.h"
#include "cloister/memory/fault_listener.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/memory/shared_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {

// Opens the lease counters of a view, which only the broker sees otherwise.
class SharedViewTestPeer {
 public:
  static LeaseTable& Leases(SharedView* view) { return view->leases(); }
};

namespace {

using base::StatusIs;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Method = FakeBackend::Method;
using Result = ConversionExecutor::Result;

constexpr uint64_t kEnd = 0x20000;
constexpr uint64_t kChunk = 4 * kPageSize;
constexpr uint64_t kSalt = 7;
constexpr PageState kBoth[] = {PageState::kPrivate, PageState::kShared};

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

PageState Other(PageState state) {
  return state == PageState::kShared ? PageState::kPrivate : PageState::kShared;
}

// 32 pages, all in the state that a conversion to `to` starts from, each with
// content of its own; an executor and two listeners.
struct Bench {
  explicit Bench(PageState target,
                 ConversionContent content = ConversionContent::kLost)
      : to(target), backend(content, kChunk, &log), a("a", &log), b("b", &log) {
    std::vector<MemoryRegion> regions;
    regions.push_back(
        MemoryRegion::Create(GuestAddress(0),
                             HostMapping::CreateMemfd("ram", kEnd, {}).value())
            .value());
    memory.emplace(GuestMemory::Create(std::move(regions)).value());
    view = SharedView::Create(&*memory, &states).value();
    pending =
        std::make_unique<PendingPrivate>(view.get(), [](const GuestRange&) {});
    executor = std::make_unique<ConversionExecutor>(ConversionExecutor::Parts{
        &backend, &leases(), pending.get(), &leftovers, &stats,
        [this](const GuestRange& range, PageState state) {
          log.Add("publish");
          if (publish_fails_in == 0) {
            --publish_fails_in;
            return absl::ResourceExhaustedError("no room in the map");
          }
          if (publish_fails_in > 0) --publish_fails_in;
          return states.Set(range, state);
        },
        [this](nanoseconds) {
          ++delays;
          return !shut_down;
        }});
    EXPECT_OK(states.Set(Range(0, kEnd), Other(to)));
    EXPECT_OK(backend.SetAttributes(Range(0, kEnd), Other(to)).status);
    for (uint64_t at = 0; at < kEnd; at += kPageSize) {
      backend.GuestWrite(GuestAddress(at), at + kSalt);
    }
    if (to == PageState::kPrivate) {
      for (FaultListener* listener : {&a, &b}) {
        listener->MapShared(Range(0, kEnd));
      }
    }
    log.Take();
  }

  std::function<absl::Status()> stop;  // see ConversionExecutor::Limits

  LeaseTable& leases() { return SharedViewTestPeer::Leases(view.get()); }
  Result Apply(std::vector<GuestRange> ranges,
               nanoseconds busy_wait = nanoseconds(0)) {
    ConversionListener* const listeners[] = {&a, &b};
    const auto now = steady_clock::now();
    return executor->Apply(
        ConversionSet{next_id++, to, /*implicit=*/false, std::move(ranges)},
        listeners, {now, now + busy_wait, stop});
  }

  // Checks that the first `done` bytes of `range` are new and empty (or keep
  // what they held, in place), and that all else is as it was; that devices
  // have mapped just what is shared, and no listener waits for an end.
  void Check(const GuestRange& range, uint64_t done) {
    for (uint64_t at = 0; at < kEnd; at += kPageSize) {
      const GuestAddress page(at);
      const bool fresh =
          range.Contains(page) && *page.OffsetFrom(range.start()) < done;
      EXPECT_EQ(states.Get(page), fresh ? to : Other(to)) << at;
      EXPECT_EQ(backend.Get(page).attribute, fresh ? to : Other(to)) << at;
      const bool kept =
          !fresh || backend.content() == ConversionContent::kPreserved;
      EXPECT_EQ(backend.GuestRead(page), kept ? at + kSalt : 0) << at;
      const bool shared = states.Get(page) == PageState::kShared;
      EXPECT_EQ(view->Acquire(page, 1).ok(), shared) << "leases at " << at;
      for (FaultListener* listener : {&a, &b}) {
        bool mapped = false;
        for (const GuestRange& part : listener->mapped()) {
          mapped |= part.Contains(page);
        }
        EXPECT_EQ(mapped, shared) << listener->name() << " at " << at;
      }
    }
    EXPECT_THAT(backend.violations(), IsEmpty());
    for (FaultListener* listener : {&a, &b}) {
      EXPECT_THAT(listener->violations(), IsEmpty());
      EXPECT_EQ(listener->half_prepared(), 0u);
    }
  }
  // Pages that both sides back and nobody has noted.
  uint64_t Forgotten() {
    uint64_t bytes = 0;
    for (uint64_t at = 0; at < kEnd; at += kPageSize) {
      const FakeBackend::Page page = backend.Get(GuestAddress(at));
      bytes += page.shared && page.private_ ? kPageSize : 0;
    }
    const uint64_t noted = leftovers.bytes() + pending->bytes();
    return bytes > noted ? bytes - noted : 0;
  }

  const PageState to;
  StepLog log;
  FakeBackend backend;
  FaultListener a;
  FaultListener b;
  PageStateMap states;
  std::optional<GuestMemory> memory;
  std::unique_ptr<SharedView> view;
  LeftoverPages leftovers;
  ConversionStatsCollector stats;
  int64_t publish_fails_in = -1;
  bool shut_down = false;
  int delays = 0;
  uint64_t next_id = 1;
  std::unique_ptr<PendingPrivate> pending;
  std::unique_ptr<ConversionExecutor> executor;
};

// A page, two whole chunks, a page: four steps.
const GuestRange kRange = Range(0x7000, 0xa000);
constexpr uint64_t kStepEnds[] = {0x1000, 0x5000, 0x9000, 0xa000};

uint64_t DoneBefore(size_t step) { return step == 0 ? 0 : kStepEnds[step - 1]; }

TEST(ConversionExecutorTest, StepsInOrder) {
  Bench shares(PageState::kShared);
  EXPECT_OK(shares.Apply({Range(0x4000, 0x1000)}).status);
  EXPECT_THAT(shares.log.Take(),
              ElementsAre("a prepare", "b prepare", "reserve",
                          "attribute shared", "publish", "free private",
                          "a map", "b map", "a commit", "b commit"));
  Bench takes(PageState::kPrivate);
  EXPECT_OK(takes.Apply({Range(0x4000, 0x1000)}).status);
  EXPECT_THAT(takes.log.Take(),
              ElementsAre("a prepare", "b prepare", "a unmap", "b unmap",
                          "attribute private", "publish", "free shared",
                          "a commit", "b commit"));
}

TEST(ConversionExecutorTest, EveryFailedPublishIsUndone) {
  for (ConversionContent content :
       {ConversionContent::kLost, ConversionContent::kPreserved}) {
    for (PageState to : kBoth) {
      for (size_t step = 0; step < 4; ++step) {
        SCOPED_TRACE(absl::StrCat(PageStateName(to), ", chunk ", step));
        Bench bench(to, content);
        bench.publish_fails_in = static_cast<int64_t>(step);
        Result result = bench.Apply({kRange});
        EXPECT_THAT(result.status,
                    StatusIs(absl::StatusCode::kResourceExhausted,
                             HasSubstr("publishing")));
        EXPECT_FALSE(result.fatal);
        EXPECT_EQ(result.bytes_done, DoneBefore(step));
        bench.Check(kRange, DoneBefore(step));
        EXPECT_EQ(bench.Forgotten(), 0u);
        EXPECT_EQ(bench.stats.Snapshot().undone_chunks, 1u);
        // Nothing is in the way of another try.
        const GuestRange rest =
            Range(0x7000 + DoneBefore(step), kRange.size() - DoneBefore(step));
        EXPECT_OK(bench.Apply({rest}).status);
        bench.Check(kRange, kRange.size());
      }
    }
  }
}

TEST(ConversionExecutorTest, EveryFailedBackendCallLeavesWholeChunks) {
  for (ConversionContent content :
       {ConversionContent::kLost, ConversionContent::kPreserved}) {
    for (PageState to : kBoth) {
      const bool lost = content == ConversionContent::kLost;
      uint64_t calls = 0;
      for (;; ++calls) {
        SCOPED_TRACE(absl::StrCat(PageStateName(to), ", call ", calls));
        Bench bench(to, content);
        bench.backend.FailCalls(std::nullopt, calls, 1,
                                absl::InternalError("told to"));
        Result result = bench.Apply({kRange});
        EXPECT_FALSE(result.fatal);
        EXPECT_EQ(result.status.ok(), result.bytes_done == kRange.size());
        bench.Check(kRange, result.bytes_done);
        EXPECT_EQ(bench.Forgotten(), 0u);
        if (!bench.backend.failed()) break;
        // A failure is reported, but for that of freeing, which is noted.
        EXPECT_NE(result.status.ok(), bench.leftovers.bytes() == 0);
      }
      const uint64_t in_each = !lost ? 1 : to == PageState::kShared ? 3 : 2;
      EXPECT_EQ(calls, 4 * in_each);
    }
  }
}

TEST(ConversionExecutorTest, EveryRefusalRollsBack) {
  for (PageState to : kBoth) {
    for (bool second : {false, true}) {
      Bench bench(to);
      FaultListener& refuses = second ? bench.b : bench.a;
      refuses.RefusePrepare(0);
      Result result = bench.Apply({kRange});
      EXPECT_THAT(
          result.status,
          StatusIs(absl::StatusCode::kResourceExhausted,
                   HasSubstr(absl::StrCat("refused by ", refuses.name()))));
      EXPECT_EQ(result.bytes_done, 0u);
      bench.Check(kRange, 0);
      EXPECT_EQ(bench.backend.calls(Method::kReserve), 0u);
      EXPECT_EQ(
          bench.stats.Snapshot().rollbacks_by_listener,
          (std::map<std::string, uint64_t>{{std::string(refuses.name()), 1}}));
    }
  }
}

// Before the first chunk, between two, and after the last.
TEST(ConversionExecutorTest, StopsBetweenTwoChunks) {
  for (PageState to : kBoth) {
    for (int stop_at : {0, 1, 3, 100}) {
      SCOPED_TRACE(absl::StrCat(PageStateName(to), " ", stop_at));
      Bench bench(to);
      int asked = 0;
      bench.stop = [&]() -> absl::Status {
        if (asked++ < stop_at) return absl::OkStatus();
        return absl::CancelledError("enough");
      };
      Result result = bench.Apply({kRange});
      if (stop_at == 100) {
        EXPECT_OK(result.status);
        bench.Check(kRange, kRange.size());
        continue;
      }
      EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kCancelled));
      EXPECT_FALSE(result.fatal);
      EXPECT_EQ(result.bytes_done, DoneBefore(stop_at));
      bench.Check(kRange, DoneBefore(stop_at));
      EXPECT_EQ(bench.stats.Snapshot().undone_chunks, 0u);
    }
  }
}

TEST(ConversionExecutorTest, WhenUndoingFailsTheVmHasToStop) {
  for (PageState to : kBoth) {
    for (bool publish : {false, true}) {
      SCOPED_TRACE(absl::StrCat(PageStateName(to), publish ? ", publish" : ""));
      Bench bench(to);
      // The third chunk: the first step fails, and so does its undoing.
      bench.backend.FailCalls(Method::kSet, publish ? 3 : 2, publish ? 1 : 2,
                              absl::InternalError("broken"));
      if (publish) bench.publish_fails_in = 2;
      Result result = bench.Apply({kRange});
      EXPECT_TRUE(result.fatal);
      EXPECT_THAT(result.status,
                  StatusIs(absl::StatusCode::kInternal, HasSubstr("undoing")));
      EXPECT_THAT(std::string(result.status.message()),
                  HasSubstr(publish ? "no room in the map" : "broken"));
      EXPECT_EQ(result.bytes_done, DoneBefore(2));
      // Nobody may touch a page that is in between.
      const GuestAddress between(0xc000);
      EXPECT_FALSE(bench.view->Acquire(between, 1).ok());
      for (FaultListener* listener : {&bench.a, &bench.b}) {
        EXPECT_EQ(listener->half_prepared(), 0u);
        EXPECT_THAT(listener->violations(), IsEmpty());
        for (const GuestRange& mapped : listener->mapped()) {
          EXPECT_FALSE(mapped.Contains(between));
        }
      }
    }
  }
}

// The request ran out of time, which is why it is undone: that must not make
// a page that is busy for another moment the end of the VM.
TEST(ConversionExecutorTest, UndoingHasTimeOfItsOwn) {
  for (PageState to : kBoth) {
    Bench bench(to, ConversionContent::kPreserved);
    // Half of the chunk is set, the rest busy; then the undoing finds pages
    // busy 20 times.
    bench.backend.FailCalls(Method::kSet, 0, 21,
                            absl::UnavailableError("pinned"));
    Result result = bench.Apply({Range(0x8000, kChunk)}, -nanoseconds(1));
    EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_FALSE(result.fatal) << result.status;
    EXPECT_EQ(bench.delays, 20);
    bench.Check(Range(0x8000, kChunk), 0);
  }
}

TEST(ConversionExecutorTest, UndoingGivesUpWhenTheVmGoesAway) {
  Bench bench(PageState::kShared, ConversionContent::kPreserved);
  bench.shut_down = true;
  bench.backend.FailCalls(Method::kSet, 0, 1000,
                          absl::UnavailableError("pinned"));
  Result result = bench.Apply({Range(0x8000, kChunk)}, std::chrono::hours(1));
  EXPECT_TRUE(result.fatal);
  EXPECT_EQ(bench.delays, 2);  // one wait of the request, one of the undoing
}

TEST(ConversionExecutorTest, BusyPagesAreTriedAgainFromWhereItStopped) {
  Bench bench(PageState::kShared, ConversionContent::kPreserved);
  std::vector<GuestRange> asked;
  bench.backend.during_set = [&](const GuestRange& range, PageState) {
    asked.push_back(range);
  };
  bench.backend.FailCalls(Method::kSet, 0, 2, absl::UnavailableError("pinned"));
  EXPECT_OK(bench.Apply({Range(0x8000, kChunk)}, std::chrono::hours(1)).status);
  EXPECT_THAT(asked, ElementsAre(Range(0x8000, 0x4000), Range(0xa000, 0x2000),
                                 Range(0xb000, 0x1000)));
  bench.Check(Range(0x8000, kChunk), kChunk);
}

TEST(ConversionExecutorTest, ALeaseMakesPagesPendingAndStaysValid) {
  Bench bench(PageState::kPrivate);
  std::optional<Lease> lease = *bench.view->Acquire(GuestAddress(0x9000), 0x10);
  EXPECT_OK(bench.Apply({Range(0x8000, kChunk)}).status);
  EXPECT_EQ(bench.pending->bytes(), kPageSize);
  EXPECT_EQ(bench.backend.Get(GuestAddress(0x9000)).shared, 0x9000 + kSalt);
  EXPECT_FALSE(bench.backend.Get(GuestAddress(0xa000)).shared.has_value());
  // Too early, and then not.
  bench.executor->FreePending(Range(0, kEnd));
  EXPECT_EQ(bench.pending->bytes(), kPageSize);
  EXPECT_TRUE(bench.backend.Get(GuestAddress(0x9000)).shared.has_value());
  lease.reset();
  bench.executor->FreePending(Range(0, kEnd));
  EXPECT_EQ(bench.pending->bytes(), 0u);
  EXPECT_FALSE(bench.backend.Get(GuestAddress(0x9000)).shared.has_value());
}

// Pages pending from before turn shared, and that fails: what the old lease
// still uses must not be given back with the reservation.
TEST(ConversionExecutorTest, AFailedReservationSparesWhatALeaseUses) {
  Bench bench(PageState::kPrivate);
  Lease lease = *bench.view->Acquire(GuestAddress(0x9000), 0x10);
  EXPECT_OK(bench.Apply({Range(0x8000, kChunk)}).status);
  ConversionListener* const listeners[] = {&bench.a, &bench.b};
  bench.backend.FailCalls(Method::kSet, 0, 1, absl::InternalError("told to"));
  Result result = bench.executor->Apply(
      ConversionSet{100, PageState::kShared, false, {Range(0x8000, kChunk)}},
      listeners, {steady_clock::now(), steady_clock::now(), nullptr});
  EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(bench.backend.Get(GuestAddress(0x9000)).shared, 0x9000 + kSalt);
  EXPECT_FALSE(bench.backend.Get(GuestAddress(0xa000)).shared.has_value());
  EXPECT_EQ(bench.pending->bytes(), kPageSize);
  bench.backend.FailNothing();
  EXPECT_OK(
      bench.executor
          ->Apply(
              ConversionSet{
                  101, PageState::kShared, false, {Range(0x8000, kChunk)}},
              listeners, {steady_clock::now(), steady_clock::now(), nullptr})
          .status);
  EXPECT_EQ(bench.pending->bytes(), 0u);
  EXPECT_TRUE(bench.backend.Get(GuestAddress(0x9000)).shared.has_value());
}

TEST(ConversionExecutorTest, InPlaceALeaseRefusesAndUnblocks) {
  Bench bench(PageState::kPrivate, ConversionContent::kPreserved);
  {
    Lease lease = *bench.view->Acquire(GuestAddress(0x9000), 0x10);
    EXPECT_THAT(bench.Apply({Range(0x8000, kChunk)}).status,
                StatusIs(absl::StatusCode::kUnavailable));
  }
  bench.Check(Range(0x8000, kChunk), 0);
}

TEST(LeftoverPagesTest, RemembersSoMuchAndNoMore) {
  LeftoverPages leftovers;
  for (uint64_t i = 0; i < LeftoverPages::kMaxRanges + 10; ++i) {
    leftovers.Add(BackingSide::kShared, Range(i * 0x2000, 0x1000));
  }
  EXPECT_EQ(leftovers.bytes(), LeftoverPages::kMaxRanges * kPageSize);
  leftovers.Add(BackingSide::kPrivate, Range(0, 0x1000));
  leftovers.Remove(BackingSide::kShared, Range(0, uint64_t{1} << 40));
  EXPECT_EQ(leftovers.bytes(), kPageSize);
  EXPECT_THAT(leftovers.All(BackingSide::kPrivate),
              ElementsAre(Range(0, 0x1000)));
  leftovers.Clear();
  EXPECT_EQ(leftovers.bytes(), 0u);
}

}  // namespace
}  // namespace cloister::memory
