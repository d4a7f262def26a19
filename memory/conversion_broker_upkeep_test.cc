// SPDX-License-Identifier: Apache-2.0
//
// What the broker does for the VM as a whole: its phases, declaring memory,
// what the host may convert, the balloon.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using World = ConversionWorld;
using Method = FakeBackend::Method;
using Phase = ConversionPhase;
using Reason = HostConversionReason;

constexpr uint64_t kEnd = World::kEnd;
constexpr uint64_t kToPrivate = World::kToPrivate;
constexpr uint64_t kToShared = World::kToShared;
constexpr Reason kReasons[] = {Reason::kBeforeBoot, Reason::kGivenUp,
                               Reason::kExchangeWindow};
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

GuestRange Range(uint64_t start, uint64_t size) {
  return World::Range(start, size);
}
GuestRange Page(uint64_t start) { return World::Page(start); }

void MustConvert(World& world, const GuestRange& range, uint64_t attributes) {
  EXPECT_EQ(world.Guest(range, attributes).code, GuestConversionCode::kOk);
}

TEST(ConversionPhaseTest, OnlyTheGuestConvertsWhileTheShimRuns) {
  auto world = World::Building(World::WithWindow());
  const GuestRange staged = Range(0x8000, 0x3000);
  EXPECT_EQ(world->broker->phase(), Phase::kBuilding);
  EXPECT_THAT(world->Host(staged, PageState::kShared, Reason::kBeforeBoot),
              IsOkAndHolds(0x3000u));
  ASSERT_OK(world->broker->BeginLaunch());
  EXPECT_EQ(world->broker->phase(), Phase::kLaunching);
  // The shim's copy, on the private side of pages that are shared in the map.
  world->backend.Back(BackingSide::kPrivate, GuestAddress(0x9000), 42);

  for (Reason reason : kReasons) {
    for (PageState to : {PageState::kShared, PageState::kPrivate}) {
      for (const GuestRange& range : {staged, Page(0x20000), World::Window()}) {
        EXPECT_THAT(world->Host(range, to, reason), StatusIs(kPrecondition));
      }
    }
  }
  EXPECT_THAT(world->broker->Reconcile(), StatusIs(kPrecondition));
  EXPECT_THAT(world->broker->Reconcile(GuestPages::kAllReported),
              StatusIs(kPrecondition));
  EXPECT_THAT(world->broker->GuestGaveUp(Page(0x20000)),
              StatusIs(kPrecondition));
  EXPECT_THAT(world->broker->GuestTookBack(Page(0x20000)),
              StatusIs(kPrecondition));
  EXPECT_THAT(world->broker->BeginLaunch(), StatusIs(kPrecondition));
  EXPECT_THAT(world->broker->AddRam(World::Window(), PageState::kPrivate),
              StatusIs(kInvalid));
  EXPECT_EQ(world->State(0x9000), PageState::kShared);
  EXPECT_EQ(world->backend.Get(GuestAddress(0x9000)).private_, 42u);

  // The shim itself, and a fault of its.
  MustConvert(*world, Page(0x8000), kToPrivate);
  EXPECT_EQ(world->Fault(0x30000, PageState::kShared).action,
            FaultAction::kResume);

  // The VM's own conversion, in spite of a pause, spares what the shim wrote.
  world->broker->Pause();
  ASSERT_OK(world->broker->FinishLaunch({&staged, 1}));
  world->broker->Resume();
  EXPECT_EQ(world->broker->phase(), Phase::kRunning);
  EXPECT_TRUE(world->states.IsWholly(staged, PageState::kPrivate));
  EXPECT_EQ(world->Read(0x9000), 42u);
  EXPECT_EQ(world->Wrong(), "");
  EXPECT_THAT(world->Host(staged, PageState::kShared, Reason::kBeforeBoot),
              StatusIs(kPrecondition, HasSubstr("guest owns this page")));
  EXPECT_THAT(world->Host(World::Window(), PageState::kPrivate,
                          Reason::kExchangeWindow),
              IsOkAndHolds(World::kWindowSize));
  EXPECT_OK(world->broker->Reconcile());
}

TEST(ConversionPhaseTest, FinishLaunchRefusesOtherPhasesAndBadRanges) {
  auto world = World::Building();
  const GuestRange page = Page(0x8000);
  EXPECT_THAT(world->broker->FinishLaunch({&page, 1}), StatusIs(kPrecondition));
  ASSERT_OK(world->broker->BeginLaunch());
  for (const GuestRange& bad :
       {Page(kEnd), Range(kEnd - 0x1000, 0x2000), Range(0x8001, 0x1000)}) {
    EXPECT_THAT(world->broker->FinishLaunch({&bad, 1}), StatusIs(kInvalid));
    EXPECT_EQ(world->broker->phase(), Phase::kLaunching);
  }
  EXPECT_OK(world->broker->FinishLaunch({}));
  EXPECT_THAT(world->broker->FinishLaunch({}), StatusIs(kPrecondition));
  world->broker->GuestStopped();
  world->broker->GuestStarted();
  EXPECT_EQ(world->broker->phase(), Phase::kStopped);
}

TEST(ConversionPhaseTest, ALaunchThatCannotFinishStaysOne) {
  auto world = World::Building();
  const GuestRange staged = Range(0x8000, 0x3000);
  ASSERT_OK(world->Host(staged, PageState::kShared, Reason::kBeforeBoot));
  ASSERT_OK(world->broker->BeginLaunch());
  world->backend.FailCalls(Method::kSet, 0, 1, absl::InternalError("told to"));
  EXPECT_THAT(world->broker->FinishLaunch({&staged, 1}),
              StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(world->broker->phase(), Phase::kLaunching);
  EXPECT_EQ(world->Wrong(), "");
  world->backend.FailCalls(Method::kSet, 0, 2, absl::InternalError("told to"));
  EXPECT_FALSE(world->broker->FinishLaunch({&staged, 1}).ok());
  EXPECT_EQ(world->broker->FinishLaunch({&staged, 1}), world->broker->fatal());
}

// A phase changes between two requests, never beneath one.
TEST(ConversionPhaseTest, APhaseWaitsForRequestsAndHoldsUpLaterOnes) {
  auto world = World::Building();
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> first{true};
  world->backend.during_set = [&](const GuestRange&, PageState) {
    if (!first.exchange(false)) return;
    EXPECT_EQ(world->broker->phase(), Phase::kBuilding);
    entered.set_value();
    leave.get_future().wait();
    EXPECT_EQ(world->broker->phase(), Phase::kBuilding);
  };
  auto host = [&](const GuestRange& range) {
    return std::async(std::launch::async, [&world, range] {
      return world->Host(range, PageState::kShared, Reason::kBeforeBoot);
    });
  };
  auto under_way = host(Page(0x8000));
  entered.get_future().wait();
  auto launch = std::async(std::launch::async,
                           [&] { return world->broker->BeginLaunch(); });
  while (world->broker->stats().queued != 1) std::this_thread::yield();
  auto late = host(Page(0x20000));
  while (world->broker->stats().queued != 2) std::this_thread::yield();
  leave.set_value();
  EXPECT_THAT(under_way.get(), IsOkAndHolds(kPageSize));
  EXPECT_OK(launch.get());
  EXPECT_THAT(late.get(), StatusIs(kPrecondition));
  EXPECT_EQ(world->State(0x20000), PageState::kPrivate);
}

TEST(ConversionBrokerRamTest, RefusesBadRangesAndChangesNothing) {
  auto world = World::Building(World::WithWindow());
  const uint64_t generation = world->states.CurrentGeneration();
  const uint64_t calls = world->backend.calls(Method::kSet);
  const std::vector<std::pair<GuestRange, absl::StatusCode>> bad = {
      {Range(0x8001, 0x1000), kInvalid},
      {Range(0x8000, 0x1001), kInvalid},
      {Page(kEnd), kInvalid},  // no slot, but near one
      {Range(kEnd - 0x1000, 0x2000), kInvalid},
      {Range(World::kWindow - 0x1000, 0x1000), kInvalid},
      {Page(uint64_t{1} << 40), kInvalid},
      {Page(PageStateMap::kEndAddress), kInvalid},
      {Range(0x8000, PageStateMap::kEndAddress), kInvalid},
      {Page(UINT64_MAX - 0xfff), kInvalid},
      {Range(0x1000, UINT64_MAX - 0x1fff), kInvalid},
      {World::Window(), kInvalid},                // the host's
      {Page(World::kWindow + 0x1000), kInvalid},  //
      {Page(0x8000), absl::StatusCode::kAlreadyExists},
      {Range(0, kEnd), absl::StatusCode::kAlreadyExists},
  };
  for (const auto& [range, code] : bad) {
    for (PageState state : {PageState::kPrivate, PageState::kShared}) {
      EXPECT_THAT(world->broker->AddRam(range, state), StatusIs(code))
          << range.ToString();
    }
    EXPECT_THAT(world->broker->AddRam(range, PageState::kNotRam),
                StatusIs(kInvalid));
  }
  for (const GuestRange& range :
       {Page(0x8000), Page(kEnd), Range(World::kWindow - 0x1000, 0x2000)}) {
    EXPECT_THAT(world->broker->AddExchangeWindow(range, PageState::kPrivate),
                StatusIs(kInvalid));
  }
  EXPECT_THAT(
      world->broker->AddExchangeWindow(World::Window(), PageState::kAliased),
      StatusIs(kInvalid));
  EXPECT_THAT(
      world->broker->AddExchangeWindow(World::Window(), PageState::kNotRam),
      StatusIs(kInvalid));
  EXPECT_THAT(
      world->broker->AddExchangeWindow(World::Window(), PageState::kShared),
      StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(world->states.CurrentGeneration(), generation);
  EXPECT_EQ(world->backend.calls(Method::kSet), calls);

  auto plain = World::Building();
  ASSERT_OK(plain->broker->BeginLaunch());
  EXPECT_THAT(plain->broker->AddRam(World::Window(), PageState::kPrivate),
              StatusIs(kPrecondition));
}

TEST(ConversionBrokerRamTest, BadWindowsAreRefusedWithTheOptions) {
  World world;
  for (const GuestRange& bad : {Range(0x8001, 0x1000), Range(0x8000, 0x10),
                                Page(PageStateMap::kEndAddress)}) {
    ConversionBrokerOptions options;
    options.exchange_windows = {bad};
    EXPECT_THAT(ConversionBroker::Create(&world.states, &world.backend,
                                         world.view.get(), options)
                    .status(),
                StatusIs(kInvalid));
  }
}

TEST(ConversionBrokerHostTest, TakesOnlyWhatIsItsOwn) {
  World world(World::WithWindow());
  const GuestRange page = Page(0x8000);
  for (Reason reason : kReasons) {
    EXPECT_THAT(world.Host(page, PageState::kShared, reason),
                StatusIs(kPrecondition, HasSubstr("guest owns this page")));
  }
  // One page too many is one too many.
  for (Reason reason : kReasons) {
    const GuestRange both[] = {Page(World::kWindow + 0x1000), page};
    EXPECT_THAT(world.broker->ConvertForHost(both, PageState::kPrivate, reason),
                StatusIs(kPrecondition));
  }
  EXPECT_EQ(world.State(World::kWindow + 0x1000), PageState::kShared);
  EXPECT_THAT(world.Host(Page(World::kWindow + 0x1000), PageState::kPrivate,
                         Reason::kExchangeWindow),
              IsOkAndHolds(0x1000u));
  ASSERT_OK(world.broker->GuestGaveUp(page));
  EXPECT_THAT(
      world.Host(Range(0x8000, 0x2000), PageState::kShared, Reason::kGivenUp),
      StatusIs(kPrecondition));
  EXPECT_THAT(world.Host(page, PageState::kShared, Reason::kGivenUp),
              IsOkAndHolds(0x1000u));
  ASSERT_OK(world.broker->GuestTookBack(page));
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_THAT(world.Host(page, PageState::kShared, Reason::kGivenUp),
              StatusIs(kPrecondition));
  world.broker->GuestStopped();
  EXPECT_THAT(world.Host(page, PageState::kShared, Reason::kBeforeBoot),
              StatusIs(kPrecondition));
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerHostTest, BadRangesChangeNothing) {
  auto world = World::Building(World::WithWindow());
  const uint64_t generation = world->states.CurrentGeneration();
  const std::vector<std::vector<GuestRange>> bad = {
      {},                                // empty
      {Range(0x8001, 0x1000)},           // misaligned
      {Range(0x8000, 0x800)},            //
      {Page(kEnd)},                      // no RAM, no slot
      {Range(kEnd - 0x1000, 0x2000)},    // half outside
      {Range(0x3000, 0x2000)},           // half aliased
      {Page(0xfee00000)},                // a device's
      {Page(0x8000), Page(0xfee00000)},  // one good
      {Range(0x8000, PageStateMap::kEndAddress - 0x8000)},
      {Range(0, PageStateMap::kEndAddress - 0x1000)},  // 2^40 - 1 pages
      {Range(0, UINT64_MAX - 0xfff)},                  // 2^52 - 1 pages
      {Page(PageStateMap::kEndAddress)},
      {Page(UINT64_MAX - 0xfff)}};
  world->log.Take();
  for (const std::vector<GuestRange>& ranges : bad) {
    for (Reason reason : kReasons) {
      EXPECT_THAT(
          world->broker->ConvertForHost(ranges, PageState::kShared, reason),
          StatusIs(kInvalid));
    }
  }
  const GuestRange good = Page(0x8000);
  for (PageState to : {PageState::kNotRam, PageState::kAliased}) {
    EXPECT_THAT(world->Host(good, to, Reason::kBeforeBoot), StatusIs(kInvalid));
  }
  EXPECT_EQ(world->states.CurrentGeneration(), generation);
  EXPECT_THAT(world->log.Take(), IsEmpty());
  EXPECT_EQ(world->broker->stats().refused, bad.size() * 3 + 2);
}

TEST(ConversionBrokerHostTest, SortsAndMergesWhatItConverts) {
  auto world = World::Building();
  const GuestRange ranges[] = {Page(0x9000), Range(0x8000, 0x2000),
                               Page(0xa000), Page(0x20000)};
  EXPECT_THAT(world->broker->ConvertForHost(ranges, PageState::kShared,
                                            Reason::kBeforeBoot),
              IsOkAndHolds(0x4000u));
  EXPECT_EQ(world->broker->stats().merges, 2u);
  EXPECT_EQ(world->broker->stats().to_shared[2].bytes, 0x4000u);
}

TEST(ConversionBrokerBalloonTest, BadRangesChangeNothing) {
  World world;
  const uint64_t generation = world.states.CurrentGeneration();
  for (const GuestRange& bad :
       {Range(0x8001, 0x1000), Range(0x8000, 0x1234), Page(kEnd),
        Range(kEnd - 0x1000, 0x2000), Page(0x1000), Range(0x3000, 0x2000),
        Page(0xfee00000), Range(0, UINT64_MAX - 0xfff),
        Range(0x8000, PageStateMap::kEndAddress),
        Page(PageStateMap::kEndAddress), Page(UINT64_MAX - 0xfff)}) {
    EXPECT_THAT(world.broker->GuestGaveUp(bad), StatusIs(kInvalid))
        << bad.ToString();
    for (uint64_t good : {uint64_t{0x8000}, kEnd - 0x1000}) {
      EXPECT_THAT(world.Host(Page(good), PageState::kShared, Reason::kGivenUp),
                  StatusIs(kPrecondition));
    }
  }
  for (const GuestRange& bad :
       {Range(0x8001, 0x1000), Page(PageStateMap::kEndAddress)}) {
    EXPECT_THAT(world.broker->GuestTookBack(bad), StatusIs(kInvalid));
  }
  // Never given up: nothing to take back.
  EXPECT_OK(world.broker->GuestTookBack(Page(0x8000)));
  EXPECT_EQ(world.states.CurrentGeneration(), generation);
}

TEST(ConversionBrokerBalloonTest, EachPageComesBackAsItWas) {
  World world;
  MustConvert(world, Page(0x9000), kToShared);
  ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 0x3000)));
  for (PageState to : {PageState::kShared, PageState::kPrivate}) {
    EXPECT_OK(world.Host(Range(0x8000, 0x3000), to, Reason::kGivenUp));
    // Again, and more: what is known stays known.
    ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 0x4000)));
  }
  world.backend.FailCalls(Method::kReserve, 0, 1,
                          absl::ResourceExhaustedError("told to"));
  EXPECT_FALSE(world.broker->GuestTookBack(Range(0x8000, 0x4000)).ok());
  EXPECT_EQ(world.Wrong(), "");
  ASSERT_OK(world.broker->GuestTookBack(Range(0x8000, 0x4000)));
  for (uint64_t at = 0x8000; at < 0xc000; at += kPageSize) {
    EXPECT_EQ(world.State(at),
              at == 0x9000 ? PageState::kShared : PageState::kPrivate);
  }
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerBalloonTest, WhatTheGuestConvertsIsItsOwnAgain) {
  World world;
  MustConvert(world, Page(0x9000), kToShared);
  ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 0x4000)));
  EXPECT_OK(world.Host(Page(0xb000), PageState::kShared, Reason::kGivenUp));
  // By hypercall, by fault, and by asking for what the host has made of it.
  MustConvert(world, Page(0x9000), kToPrivate);
  EXPECT_EQ(world.Fault(0xa000, PageState::kShared).action,
            FaultAction::kResume);
  MustConvert(world, Page(0xb000), kToShared);
  for (uint64_t page : {0x9000, 0xa000, 0xb000}) {
    world.backend.GuestWrite(GuestAddress(page), page + 1);
    for (PageState to : {PageState::kShared, PageState::kPrivate}) {
      EXPECT_THAT(world.Host(Page(page), to, Reason::kGivenUp),
                  StatusIs(kPrecondition, HasSubstr("guest owns this page")));
    }
    EXPECT_THAT(world.broker->FreeGivenUp(Page(page)), StatusIs(kPrecondition));
  }
  // Its neighbour still is the host's.
  EXPECT_OK(world.Host(Page(0x8000), PageState::kShared, Reason::kGivenUp));
  ASSERT_OK(world.broker->GuestTookBack(Range(0x8000, 0x4000)));
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_EQ(world.State(0x9000), PageState::kPrivate);
  EXPECT_EQ(world.State(0xa000), PageState::kShared);
  EXPECT_EQ(world.State(0xb000), PageState::kShared);
  for (uint64_t page : {0x9000, 0xa000, 0xb000}) {
    EXPECT_EQ(world.Read(page), page + 1);
  }
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerBalloonTest, WhatFailsToConvertStaysGivenUp) {
  World world;
  const GuestRange done = Range(0x8000, World::kChunk);
  const GuestRange rest = Range(0x8000 + World::kChunk, World::kChunk);
  ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 2 * World::kChunk)));
  world.backend.FailCalls(Method::kReserve, 1, 1,
                          absl::InternalError("told to"));
  EXPECT_EQ(world.Guest(Range(0x8000, 2 * World::kChunk), kToShared).code,
            GuestConversionCode::kFailed);
  EXPECT_THAT(world.Host(done, PageState::kPrivate, Reason::kGivenUp),
              StatusIs(kPrecondition));
  EXPECT_OK(world.Host(rest, PageState::kShared, Reason::kGivenUp));
  ASSERT_OK(world.broker->GuestTookBackAll());
  EXPECT_TRUE(world.states.IsWholly(done, PageState::kShared));
  EXPECT_TRUE(world.states.IsWholly(rest, PageState::kPrivate));
  EXPECT_EQ(world.Wrong(), "");
}

TEST(FreeGivenUpTest, FreesBothKindsOfPagesAndLeavesTheirStates) {
  ConversionWorld world;
  world.Fill(1);
  world.Guest(Range(0x9000, 0x1000), ConversionWorld::kToShared);
  world.backend.GuestWrite(GuestAddress(0x9000), 7);
  ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 0x3000)));
  ASSERT_OK(world.broker->FreeGivenUp(Range(0x8000, 0x3000)));
  for (uint64_t page : {0x8000, 0x9000, 0xa000}) {
    const FakeBackend::Page cell = world.backend.Get(GuestAddress(page));
    EXPECT_FALSE(cell.shared.has_value() || cell.private_.has_value()) << page;
  }
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_EQ(world.State(0x9000), PageState::kShared);
  EXPECT_EQ(world.Read(0x7000), 0x7001u);
  EXPECT_EQ(world.Read(0xb000), 0xb001u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(FreeGivenUpTest, RefusesWhatTheGuestOwns) {
  ConversionWorld world;
  world.Fill(1);
  ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 0x1000)));
  EXPECT_THAT(world.broker->FreeGivenUp(Range(0x8000, 0x2000)),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("guest owns this page")));
  EXPECT_EQ(world.Read(0x8000), 0x8001u);
  EXPECT_EQ(world.Read(0x9000), 0x9001u);
}

TEST(FreeGivenUpTest, KeepsASharedPageThatADeviceUses) {
  ConversionBrokerOptions options;
  options.busy_wait = std::chrono::hours(1);  // which nobody waits for
  ConversionWorld world(std::move(options));
  world.Guest(Range(0x8000, 0x1000), ConversionWorld::kToShared);
  world.backend.GuestWrite(GuestAddress(0x8000), 7);
  ASSERT_OK(world.broker->GuestGaveUp(Range(0x8000, 0x1000)));
  {
    ASSERT_OK_AND_ASSIGN(Lease lease,
                         world.view->Acquire(GuestAddress(0x8000), 1));
    EXPECT_THAT(world.broker->FreeGivenUp(Range(0x8000, 0x1000)),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("device")));
    EXPECT_EQ(world.Read(0x8000), 7u);
  }
  EXPECT_OK(world.view->Acquire(GuestAddress(0x8000), 1).status());
  EXPECT_OK(world.broker->FreeGivenUp(Range(0x8000, 0x1000)));
  EXPECT_EQ(world.Read(0x8000), 0u);
}

}  // namespace
}  // namespace cloister::memory
