// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_broker.h"

#include <atomic>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_world.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Method = FakeBackend::Method;
using Reason = HostConversionReason;

constexpr uint64_t kEnd = ConversionWorld::kEnd;
constexpr uint64_t kAliasedEnd = ConversionWorld::kAliasedEnd;
constexpr uint64_t kChunk = ConversionWorld::kChunk;
constexpr uint64_t kToPrivate = ConversionWorld::kToPrivate;
constexpr uint64_t kToShared = ConversionWorld::kToShared;

GuestRange Range(uint64_t start, uint64_t size) {
  return ConversionWorld::Range(start, size);
}

struct World : ConversionWorld {
  using ConversionWorld::ConversionWorld;
  void MustConvert(const GuestRange& range, uint64_t attributes) {
    EXPECT_EQ(Guest(range, attributes).code, GuestConversionCode::kOk);
  }
  // This guest has told of all that it wrote.
  absl::Status Tidy() {
    broker->Pause();
    auto report = broker->Reconcile(GuestPages::kAllReported);
    broker->Resume();
    return report.status();
  }
};

TEST(ConversionBrokerTest, StepsInOrderBothWays) {
  World world;
  world.MustConvert(Range(0x8000, 0x1000), kToShared);
  EXPECT_THAT(
      world.log.Take(),
      ElementsAre("a prepare", "b prepare", "reserve", "attribute shared",
                  "free private", "a map", "b map", "a commit", "b commit"));
  world.MustConvert(Range(0x8000, 0x1000), kToPrivate);
  EXPECT_THAT(
      world.log.Take(),
      ElementsAre("a prepare", "b prepare", "a unmap", "b unmap",
                  "attribute private", "free shared", "a commit", "b commit"));
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, ANoOpTouchesNothing) {
  World world;
  world.MustConvert(Range(0x8000, 0x2000), kToShared);
  world.Fill(1);
  world.log.Take();
  world.MustConvert(Range(0x8000, 0x2000), kToShared);
  world.MustConvert(Range(0xc000, 0x2000), kToPrivate);
  EXPECT_THAT(world.log.Take(), IsEmpty());
  // Only the page that was private loses its private content.
  world.MustConvert(Range(0x9000, 0x2000), kToShared);
  EXPECT_EQ(world.backend.GuestRead(GuestAddress(0x8000)), 0x8001u);
  EXPECT_EQ(world.backend.GuestRead(GuestAddress(0x9000)), 0x9001u);
  EXPECT_EQ(world.backend.GuestRead(GuestAddress(0xa000)), 0u);
  EXPECT_EQ(world.backend.GuestRead(GuestAddress(0xb000)), 0xb001u);
  EXPECT_EQ(world.broker->stats().no_ops, 2u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, AliasedMemoryIsClipped) {
  World world;
  GuestConversion done = world.Guest(Range(0x2000, 0x4000), kToShared);
  EXPECT_EQ(done.code, GuestConversionCode::kOk);
  EXPECT_EQ(done.bytes_changed, 0x2000u);
  EXPECT_EQ(world.states.Get(GuestAddress(0x3000)), PageState::kAliased);
  EXPECT_EQ(world.broker->stats().aliased_bytes, 0x2000u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, BadRequestsChangeNothing) {
  World world;
  const uint64_t generation = world.states.CurrentGeneration();
  constexpr uint64_t kPages = uint64_t{1} << 52;
  const std::vector<std::pair<uint64_t, uint64_t>> bad = {
      {0x8001, 1},      {0x8000, 0},          {UINT64_MAX - 0xfff, 2},
      {kEnd, 1},        {kEnd - 0x1000, 2},   {0, kPages - 1},
      {0x8000, kPages}, {0x8000, UINT64_MAX}, {uint64_t{1} << 51, 1}};
  for (const auto& [gpa, pages] : bad) {
    EXPECT_EQ(world.broker->ConvertForGuest(gpa, pages, kToShared).code,
              GuestConversionCode::kInvalid)
        << gpa << " " << pages;
  }
  EXPECT_EQ(world.broker->stats().refused, bad.size());
  EXPECT_EQ(world.states.CurrentGeneration(), generation);
  EXPECT_THAT(world.log.Take(), IsEmpty());
}

TEST(ConversionBrokerTest, BadFaultsChangeNothing) {
  World world;
  const uint64_t generation = world.states.CurrentGeneration();
  for (uint64_t page : {uint64_t{0x8001}, uint64_t{0x8fff}, UINT64_MAX}) {
    EXPECT_EQ(world.Fault(page, PageState::kShared).action, FaultAction::kFail);
  }
  for (PageState wanted : {PageState::kNotRam, PageState::kAliased}) {
    EXPECT_EQ(world.Fault(0x8000, wanted).action, FaultAction::kFail);
  }
  const uint64_t outside[] = {kEnd,
                              uint64_t{1} << 40,
                              PageStateMap::kEndAddress - kPageSize,
                              0xfee00000,
                              uint64_t{1} << 52,
                              UINT64_MAX - 0xfff,
                              0x1000,  // aliased
                              ConversionWorld::kWindow};
  for (uint64_t page : outside) {
    for (PageState wanted : {PageState::kShared, PageState::kPrivate}) {
      FaultConversion result = world.Fault(page, wanted);
      EXPECT_EQ(result.action, FaultAction::kDeny) << page;
      EXPECT_THAT(result.detail,
                  StatusIs(absl::StatusCode::kInvalidArgument,
                           HasSubstr(GuestAddress(page).ToString())));
    }
  }
  EXPECT_EQ(world.broker->stats().refused, 5 + 2 * std::size(outside));
  EXPECT_EQ(world.states.CurrentGeneration(), generation);
  EXPECT_THAT(world.log.Take(), IsEmpty());
}

TEST(ConversionBrokerTest, NeverTouchedPagesConvert) {
  World world;
  const GuestRange all = Range(kAliasedEnd, kEnd - kAliasedEnd);
  for (uint64_t attributes : {kToShared, kToPrivate, kToShared, kToPrivate}) {
    GuestConversion done = world.Guest(all, attributes);
    EXPECT_EQ(done.code, GuestConversionCode::kOk) << done.detail;
    EXPECT_EQ(done.bytes_changed, all.size());
    EXPECT_EQ(world.Wrong(), "");
  }
  EXPECT_EQ(world.Fault(0x8000, PageState::kShared).action,
            FaultAction::kResume);
  EXPECT_EQ(world.Read(0x8000), 0u);
  EXPECT_EQ(world.broker->stats().double_backed_bytes, 0u);
}

// Checks each chunk of `range` after a conversion that stopped somewhere: old
// with its content, or new and empty, and in this order.
uint64_t NewBytes(World* world, const GuestRange& range, PageState to) {
  uint64_t fresh = 0;
  bool stopped = false;
  for (uint64_t offset = 0; offset < range.size();) {
    const GuestRange chunk = ChunkAt(range, offset, kChunk);
    const bool converted = world->states.IsWholly(chunk, to);
    EXPECT_FALSE(stopped && converted) << "converted past the failure";
    stopped |= !converted;
    for (uint64_t at = chunk.start().value(); at <= chunk.last().value();
         at += kPageSize) {
      const GuestAddress page(at);
      EXPECT_EQ(world->states.Get(page) == to, converted) << "a half chunk";
      EXPECT_EQ(world->backend.GuestRead(page), converted ? 0 : at + 7);
    }
    if (converted) fresh += chunk.size();
    offset += chunk.size();
  }
  return fresh;
}

// One page, two whole chunks, one page.
const GuestRange kStraddling = Range(0xb000, 0xa000);

// Fails the n-th call of the backend for n = 0, 1, ... until nothing fails.
TEST(ConversionBrokerTest, EveryBackendFailureLeavesWholeChunks) {
  for (PageState to : {PageState::kShared, PageState::kPrivate}) {
    const uint64_t attributes =
        to == PageState::kShared ? kToShared : kToPrivate;
    uint64_t failures = 0;
    for (uint64_t n = 0;; ++n) {
      SCOPED_TRACE(absl::StrCat(PageStateName(to), ", call ", n));
      World world;
      if (to == PageState::kPrivate) world.MustConvert(kStraddling, kToShared);
      world.Fill(7);
      world.backend.FailCalls(std::nullopt, n, 1,
                              absl::ResourceExhaustedError("told to"));
      GuestConversion result = world.Guest(kStraddling, attributes);
      const bool failed = world.backend.failed();
      EXPECT_EQ(NewBytes(&world, kStraddling, to), result.bytes_changed);
      EXPECT_EQ(world.Wrong(), "");
      EXPECT_OK(world.broker->fatal());
      if (result.code == GuestConversionCode::kOk) {
        EXPECT_EQ(result.bytes_changed, kStraddling.size());
        // Only freeing, which is last, may fail unnoticed by the guest.
        EXPECT_EQ(world.broker->stats().leftover_bytes != 0, failed);
      } else {
        EXPECT_EQ(result.code, GuestConversionCode::kFailed);
        EXPECT_TRUE(failed);
        EXPECT_EQ(world.broker->stats().failed, 1u);
      }
      // What was left over goes, and what was refused can be done.
      world.backend.FailNothing();
      EXPECT_OK(world.Tidy());
      EXPECT_EQ(world.broker->stats().double_backed_bytes, 0u);
      EXPECT_EQ(world.Wrong(), "");
      world.MustConvert(kStraddling, attributes);
      EXPECT_EQ(world.Wrong(), "");
      if (!failed) break;
      ++failures;
    }
    // Four chunks of three resp. two calls.
    EXPECT_EQ(failures, to == PageState::kShared ? 12u : 8u);
  }
}

TEST(ConversionBrokerTest, ARefusingListenerRollsBackThoseBefore) {
  for (bool second : {false, true}) {
    World world;
    world.Fill(7);
    FaultListener& refuses = second ? world.b : world.a;
    refuses.RefusePrepare(0);
    GuestConversion result = world.Guest(kStraddling, kToShared);
    EXPECT_EQ(result.code, GuestConversionCode::kFailed);
    EXPECT_THAT(std::string(result.detail.message()),
                HasSubstr(absl::StrCat("refused by ", refuses.name())));
    EXPECT_TRUE(refuses.refused());
    EXPECT_EQ(NewBytes(&world, kStraddling, PageState::kShared), 0u);
    if (second) {
      EXPECT_THAT(world.log.Take(),
                  ElementsAre("a prepare", "b prepare", "a rollback"));
    } else {
      EXPECT_THAT(world.log.Take(), ElementsAre("a prepare"));
    }
    EXPECT_EQ(world.Wrong(), "");
    world.MustConvert(kStraddling, kToShared);
    EXPECT_EQ(world.Wrong(), "");
  }
}

// Every other page of 2050 is one range: two batches. The first is done when a
// listener refuses the second.
TEST(ConversionBrokerTest, ARefusalInTheSecondBatchKeepsTheFirst) {
  constexpr uint64_t kPages = 2 * (ConversionSet::kMaxRanges + 1);
  FakeBackend backend(ConversionContent::kLost, kChunk, nullptr);
  FaultListener a("a", nullptr);
  FaultListener b("b", nullptr);
  PageStateMap states;
  std::vector<MemoryRegion> regions;
  regions.push_back(*MemoryRegion::Create(
      GuestAddress(0),
      *HostMapping::CreateMemfd("ram", kPages * kPageSize, {})));
  GuestMemory memory = *GuestMemory::Create(std::move(regions));
  auto view = *SharedView::Create(&memory, &states);
  auto broker = *ConversionBroker::Create(&states, &backend, view.get(), {});
  ASSERT_OK(broker->AddRam(Range(0, kPages * kPageSize), PageState::kPrivate));
  for (uint64_t page = 1; page < kPages; page += 2) {
    ASSERT_EQ(broker->ConvertForGuest(page * kPageSize, 1, kToShared).code,
              GuestConversionCode::kOk);
  }
  broker->AddListener(&a);
  broker->AddListener(&b);
  b.RefusePrepare(1);
  GuestConversion result = broker->ConvertForGuest(0, kPages, kToShared);
  EXPECT_EQ(result.code, GuestConversionCode::kFailed);
  const uint64_t done = ConversionSet::kMaxRanges * kPageSize;
  EXPECT_EQ(result.bytes_changed, done);
  EXPECT_TRUE(states.IsWholly(Range(0, 2 * done), PageState::kShared));
  EXPECT_EQ(states.Get(GuestAddress(2 * done)), PageState::kPrivate);
  for (FaultListener* listener : {&a, &b}) {
    EXPECT_EQ(listener->half_prepared(), 0u);
    EXPECT_THAT(listener->violations(), IsEmpty());
    EXPECT_EQ(listener->mapped().size(), ConversionSet::kMaxRanges);
  }
  EXPECT_EQ(broker->stats().rollbacks_by_listener.at("b"), 1u);
  EXPECT_EQ(broker->ConvertForGuest(0, kPages, kToShared).bytes_changed,
            kPageSize);
}

TEST(ConversionBrokerTest, TheRestRollsBackInReverse) {
  World world;
  // The second chunk's attribute: the first one stays.
  world.backend.FailCalls(Method::kSet, 1, 1, absl::InternalError("told to"));
  GuestConversion result = world.Guest(Range(0x8000, 0x8000), kToShared);
  EXPECT_EQ(result.bytes_changed, kChunk);
  std::vector<std::string> steps = world.log.Take();
  ASSERT_GE(steps.size(), 4u);
  EXPECT_THAT(std::vector<std::string>(steps.end() - 4, steps.end()),
              ElementsAre("a commit", "b commit", "b rollback", "a rollback"));
  EXPECT_EQ(world.broker->stats().undone_chunks, 1u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, AFailedUndoIsFatalAndMayShutDownFromInside) {
  ConversionBroker* broker = nullptr;
  std::vector<absl::Status> reported;
  ConversionBrokerOptions options;
  options.on_fatal = [&](const absl::Status& status) {
    reported.push_back(status);
    broker->Shutdown();
  };
  World world(options);
  broker = world.broker.get();
  world.backend.FailCalls(Method::kSet, 0, 2, absl::InternalError("told to"));
  GuestConversion result = world.Guest(Range(0x8000, 0x4000), kToShared);
  EXPECT_EQ(result.code, GuestConversionCode::kFailed);
  ASSERT_EQ(reported.size(), 1u);
  EXPECT_THAT(std::string(reported[0].message()), HasSubstr("undoing"));
  EXPECT_EQ(world.broker->fatal(), reported[0]);
  GuestConversion later = world.Guest(Range(0x20000, 0x1000), kToShared);
  EXPECT_EQ(later.code, GuestConversionCode::kFailed);
  EXPECT_EQ(later.detail, reported[0]);
  EXPECT_EQ(world.a.half_prepared(), 0u);
  EXPECT_FALSE(world.broker->Reset().ok());
}

TEST(ConversionBrokerTest, AStaleFaultDestroysNothing) {
  World world;
  const GuestAddress page(0x8000);
  // vCPU 1 wants the page shared; its exit is not handled yet.
  const uint64_t generation = world.states.CurrentGeneration();
  world.MustConvert(Range(0x8000, 0x1000), kToShared);
  world.MustConvert(Range(0x8000, 0x1000), kToPrivate);
  world.backend.GuestWrite(page, 42);
  EXPECT_EQ(world.broker->ConvertForFault(page, PageState::kShared, generation)
                .action,
            FaultAction::kResume);
  EXPECT_EQ(world.states.Get(page), PageState::kPrivate);
  EXPECT_EQ(world.backend.GuestRead(page), 42u);
  EXPECT_EQ(world.broker->stats().stale_faults, 1u);
  // The same fault again, from after the change, is meant.
  EXPECT_EQ(world.broker
                ->ConvertForFault(page, PageState::kShared,
                                  world.states.CurrentGeneration())
                .action,
            FaultAction::kResume);
  EXPECT_EQ(world.states.Get(page), PageState::kShared);
}

TEST(ConversionBrokerTest, ALeaseThatStaysMakesThePagePendingPrivate) {
  ConversionBrokerOptions options;
  options.lease_wait = std::chrono::nanoseconds(0);
  World world(options);
  world.MustConvert(Range(0x8000, 0x2000), kToShared);
  world.Fill(7);
  auto lease = world.view->Acquire(GuestAddress(0x8000), 16);
  ASSERT_OK(lease);
  world.MustConvert(Range(0x8000, 0x2000), kToPrivate);
  EXPECT_EQ(world.broker->stats().pending_private_bytes, 0x1000u);
  EXPECT_TRUE(world.backend.Get(GuestAddress(0x8000)).shared.has_value());
  EXPECT_FALSE(world.backend.Get(GuestAddress(0x9000)).shared.has_value());
  EXPECT_FALSE(world.view->Acquire(GuestAddress(0x8000), 16).ok());
  auto report = world.broker->Reconcile();
  ASSERT_OK(report);
  EXPECT_EQ(report->leased_bytes, 0x1000u);
  EXPECT_EQ(report->freed_bytes, 0u);
  { Lease ended = *std::move(lease); }
  while (world.broker->stats().pending_private_bytes != 0) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(world.backend.Get(GuestAddress(0x8000)).shared.has_value());
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, InPlaceNeitherReservesNorFreesAndKeepsContent) {
  ConversionBrokerOptions options;
  options.busy_wait = std::chrono::milliseconds(1);
  World world(options, ConversionContent::kPreserved);
  world.Fill(7);
  world.MustConvert(Range(0x8000, 0x2000), kToShared);
  EXPECT_EQ(world.backend.GuestRead(GuestAddress(0x8000)), 0x8007u);
  {
    auto lease = world.view->Acquire(GuestAddress(0x8000), 16);
    ASSERT_OK(lease);
    EXPECT_EQ(world.Guest(Range(0x8000, 0x2000), kToPrivate).code,
              GuestConversionCode::kFailed);
    EXPECT_EQ(world.states.Get(GuestAddress(0x8000)), PageState::kShared);
  }
  // A page that is busy once is tried again.
  world.backend.FailCalls(Method::kSet, 0, 1, absl::UnavailableError("pinned"));
  world.MustConvert(Range(0x8000, 0x2000), kToPrivate);
  EXPECT_EQ(world.backend.calls(Method::kReserve), 0u);
  EXPECT_EQ(world.backend.calls(Method::kFreeShared), 0u);
  EXPECT_EQ(world.backend.calls(Method::kFreePrivate), 0u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, RequestsQueueWhilePausedAndComplete) {
  World world;
  world.broker->Pause();
  const GuestRange page = Range(0x8000, 0x1000);
  EXPECT_THAT(world.broker->ConvertForHost({&page, 1}, PageState::kShared,
                                           Reason::kGivenUp),
              StatusIs(absl::StatusCode::kUnavailable));
  auto waits = std::async(std::launch::async,
                          [&] { return world.Guest(page, kToShared).code; });
  while (world.broker->stats().queued != 1) std::this_thread::yield();
  EXPECT_EQ(world.states.Get(page.start()), PageState::kPrivate);
  world.broker->Resume();
  EXPECT_EQ(waits.get(), GuestConversionCode::kOk);
  EXPECT_EQ(world.states.Get(page.start()), PageState::kShared);
}

TEST(ConversionBrokerTest, RequestsForTheSamePagesQueueForOthersPass) {
  World world;
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> first{true};
  world.backend.during_set = [&](const GuestRange&, PageState) {
    if (!first.exchange(false)) return;
    entered.set_value();
    leave.get_future().wait();
  };
  auto one = std::async(std::launch::async, [&] {
    return world.Guest(Range(0x8000, 0x1000), kToShared).code;
  });
  entered.get_future().wait();
  auto two = std::async(std::launch::async, [&] {
    return world.Guest(Range(0x8000, 0x2000), kToPrivate).code;
  });
  while (world.broker->stats().queued != 1) std::this_thread::yield();
  world.MustConvert(Range(0x20000, 0x1000), kToShared);
  leave.set_value();
  EXPECT_EQ(one.get(), GuestConversionCode::kOk);
  EXPECT_EQ(two.get(), GuestConversionCode::kOk);
  EXPECT_EQ(world.states.Get(GuestAddress(0x8000)), PageState::kPrivate);
  EXPECT_EQ(world.Wrong(), "");
}

// The same fault twice, from two vCPUs: the second finds it done.
TEST(ConversionBrokerTest, AFaultLooksAgainWhenItHasItsTurn) {
  World world;
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> first{true};
  world.backend.during_set = [&](const GuestRange&, PageState) {
    if (!first.exchange(false)) return;
    entered.set_value();
    leave.get_future().wait();
  };
  auto one = std::async(std::launch::async, [&] {
    return world.Fault(0x8000, PageState::kShared).action;
  });
  entered.get_future().wait();
  auto two = std::async(std::launch::async, [&] {
    return world.Fault(0x8000, PageState::kShared).action;
  });
  while (world.broker->stats().queued != 1) std::this_thread::yield();
  leave.set_value();
  EXPECT_EQ(one.get(), FaultAction::kResume);
  EXPECT_EQ(two.get(), FaultAction::kResume);
  EXPECT_EQ(world.broker->stats().to_shared[1].requests, 1u);
  EXPECT_EQ(world.broker->stats().stale_faults, 1u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerTest, ShutdownEndsWaits) {
  World world;
  world.broker->Pause();
  auto waits = std::async(std::launch::async, [&] {
    return world.Guest(Range(0x8000, 0x1000), kToShared).code;
  });
  while (world.broker->stats().queued != 1) std::this_thread::yield();
  world.broker->Shutdown();
  EXPECT_EQ(waits.get(), GuestConversionCode::kFailed);
  EXPECT_EQ(world.states.Get(GuestAddress(0x8000)), PageState::kPrivate);
}

}  // namespace
}  // namespace cloister::memory
