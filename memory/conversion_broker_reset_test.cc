// SPDX-License-Identifier: Apache-2.0
//
// The broker's reset and reconciliation.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;
using World = ConversionWorld;
using Method = FakeBackend::Method;
using Phase = ConversionPhase;
using Reason = HostConversionReason;

constexpr uint64_t kEnd = World::kEnd;
constexpr uint64_t kAliasedEnd = World::kAliasedEnd;
constexpr uint64_t kToPrivate = World::kToPrivate;
constexpr uint64_t kToShared = World::kToShared;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

GuestRange Range(uint64_t start, uint64_t size) {
  return World::Range(start, size);
}
GuestRange Page(uint64_t start) { return World::Page(start); }

void MustConvert(World& world, const GuestRange& range, uint64_t attributes) {
  EXPECT_EQ(world.Guest(range, attributes).code, GuestConversionCode::kOk);
}

// Everything that a reset has to undo: shared pages, the host's window, the
// balloon, a leftover, content, the set point.
void Use(World& world) {
  MustConvert(world, Range(0xb000, 0xa000), kToShared);
  world.Fill(7);
  world.backend.FailCalls(Method::kFreeShared, 0, 1,
                          absl::InternalError("told to"));
  MustConvert(world, Page(0xc000), kToPrivate);
  world.backend.FailNothing();
  ASSERT_OK(world.broker->GuestGaveUp(Page(0x20000)));
  ASSERT_OK(world.Host(Page(0x20000), PageState::kShared, Reason::kGivenUp));
  ASSERT_OK(world.Host(Page(World::kWindow), PageState::kPrivate,
                       Reason::kExchangeWindow));
  world.broker->ArmImplicitPolicy();
}

void ExpectAsBuilt(World& world) {
  EXPECT_EQ(world.broker->phase(), Phase::kBuilding);
  EXPECT_TRUE(world.states.IsWholly(Range(kAliasedEnd, kEnd - kAliasedEnd),
                                    PageState::kPrivate));
  EXPECT_TRUE(world.states.IsWholly(World::Window(), PageState::kShared));
  for (uint64_t at = kAliasedEnd; at < kEnd; at += kPageSize) {
    const FakeBackend::Page page = world.backend.Get(GuestAddress(at));
    EXPECT_FALSE(page.shared.has_value()) << at;
    EXPECT_FALSE(page.private_.has_value()) << at;
  }
  EXPECT_EQ(world.broker->stats().leftover_bytes, 0u);
  EXPECT_EQ(world.broker->stats().pending_private_bytes, 0u);
  EXPECT_EQ(world.Wrong(), "");
  // Leases, the builder and the next guest find nothing in their way.
  EXPECT_OK(world.view->Acquire(World::Window()));
  EXPECT_OK(world.Host(Range(0x8000, 0x8000), PageState::kShared,
                       Reason::kBeforeBoot));
  EXPECT_OK(world.view->Acquire(Range(0x8000, 0x8000)));
  EXPECT_OK(world.broker->BeginLaunch());
  const GuestRange staged = Range(0x8000, 0x8000);
  EXPECT_OK(world.broker->FinishLaunch({&staged, 1}));
  EXPECT_THAT(world.Host(Page(0x20000), PageState::kShared, Reason::kGivenUp),
              StatusIs(kPrecondition));
}

TEST(ConversionBrokerResetTest, StartsAfresh) {
  ConversionBrokerOptions options = World::WithWindow();
  options.policy.implicit = ImplicitPolicy::kDeny;
  World world(options);
  Use(world);
  ASSERT_OK(world.broker->Reset());
  ExpectAsBuilt(world);
  EXPECT_EQ(world.Fault(0x8000, PageState::kShared).action,
            FaultAction::kResume);  // not armed yet
}

// Fails the n-th call of the backend for n = 0, 1, ... until nothing fails.
TEST(ConversionBrokerResetTest, EveryFailureIsReportedAndCanBeRepeated) {
  uint64_t failures = 0;
  for (;; ++failures) {
    SCOPED_TRACE(absl::StrCat("call ", failures));
    World world(World::WithWindow());
    Use(world);
    world.backend.FailCalls(std::nullopt, failures, 1,
                            absl::InternalError("told to"));
    absl::Status status = world.broker->Reset();
    const bool failed = world.backend.failed();
    world.backend.FailNothing();
    EXPECT_OK(world.broker->fatal());
    EXPECT_EQ(world.Wrong(), "");
    if (!status.ok()) {
      EXPECT_TRUE(failed);
      EXPECT_EQ(world.broker->phase(), Phase::kRunning);
      ASSERT_OK(world.broker->Reset());
    }
    ExpectAsBuilt(world);
    if (!failed) break;
  }
  EXPECT_GT(failures, 10u);
}

TEST(ConversionBrokerResetTest, ARefusingListenerCanBeAskedAgain) {
  for (int64_t n : {0, 1}) {  // the guest's RAM, and the window
    World world(World::WithWindow());
    Use(world);
    world.b.RefusePrepare(n);
    EXPECT_FALSE(world.broker->Reset().ok());
    EXPECT_TRUE(world.b.refused());
    EXPECT_EQ(world.Wrong(), "");
    ASSERT_OK(world.broker->Reset());
    ExpectAsBuilt(world);
  }
}

TEST(ConversionBrokerResetTest, AFailedUndoingStopsTheVm) {
  World world(World::WithWindow());
  Use(world);
  world.backend.FailCalls(Method::kSet, 1, 2, absl::InternalError("told to"));
  absl::Status status = world.broker->Reset();
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kInternal, HasSubstr("undoing")));
  EXPECT_EQ(world.broker->fatal(), status);
  EXPECT_EQ(world.broker->Reset(), status);
  EXPECT_EQ(world.broker->Reconcile().status(), status);
  EXPECT_EQ(world.broker->CountDoubleBacked().status(), status);
  // The page that is in between, still shared in the map.
  EXPECT_EQ(world.State(0xd000), PageState::kShared);
  EXPECT_FALSE(world.view->Acquire(Page(0xd000)).ok());
}

TEST(ConversionBrokerResetTest, ALeaseHoldsItUp) {
  ConversionBrokerOptions options = World::WithWindow();
  options.busy_wait = std::chrono::nanoseconds(0);
  World world(options);
  Use(world);
  std::optional<Lease> lease = *world.view->Acquire(Page(0xd000));
  const uint64_t generation = world.states.CurrentGeneration();
  EXPECT_THAT(world.broker->Reset(), StatusIs(absl::StatusCode::kUnavailable,
                                              HasSubstr("still uses")));
  EXPECT_EQ(world.states.CurrentGeneration(), generation);
  EXPECT_EQ(world.Read(0xd000), 0xd007u);
  EXPECT_OK(world.view->Acquire(Page(0xe000)));  // not blocked
  EXPECT_EQ(world.Wrong(), "");
  lease.reset();
  ASSERT_OK(world.broker->Reset());
  ExpectAsBuilt(world);
}

TEST(ConversionBrokerResetTest, APendingPageIsWaitedForAndFreed) {
  ConversionBrokerOptions options = World::WithWindow();
  options.lease_wait = std::chrono::nanoseconds(0);
  World world(options);
  Use(world);
  std::optional<Lease> lease = *world.view->Acquire(Page(0xd000));
  MustConvert(world, Page(0xd000), kToPrivate);
  EXPECT_EQ(world.broker->stats().pending_private_bytes, kPageSize);
  auto reset =
      std::async(std::launch::async, [&] { return world.broker->Reset(); });
  // The reset has everything, or is about to: the lease ends beneath it.
  lease.reset();
  ASSERT_OK(reset.get());
  ExpectAsBuilt(world);
}

TEST(ConversionBrokerResetTest, WaitingRequestsEndAndAFaultResumes) {
  World world;
  world.broker->Pause();
  auto fault = std::async(std::launch::async, [&] {
    return world.Fault(0x8000, PageState::kShared);
  });
  auto guest = std::async(std::launch::async,
                          [&] { return world.Guest(Page(0x9000), kToShared); });
  while (world.broker->stats().queued != 2) std::this_thread::yield();
  ASSERT_OK(world.broker->Reset());
  FaultConversion faulted = fault.get();
  EXPECT_EQ(faulted.action, FaultAction::kResume);
  EXPECT_OK(faulted.detail);
  GuestConversion called = guest.get();
  EXPECT_EQ(called.code, GuestConversionCode::kFailed);
  EXPECT_THAT(called.detail, StatusIs(absl::StatusCode::kAborted));
  world.broker->Resume();
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_EQ(world.State(0x9000), PageState::kPrivate);
}

TEST(ConversionBrokerResetTest, AWaitingHostRequestEnds) {
  World world(World::WithWindow());
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> first{true};
  world.backend.during_set = [&](const GuestRange&, PageState) {
    if (!first.exchange(false)) return;
    entered.set_value();
    leave.get_future().wait();
  };
  auto convert = [&] {
    return std::async(std::launch::async, [&] {
      return world.Host(Page(World::kWindow), PageState::kPrivate,
                        Reason::kExchangeWindow);
    });
  };
  auto under_way = convert();
  entered.get_future().wait();
  auto waits = convert();
  while (world.broker->stats().queued != 1) std::this_thread::yield();
  auto reset =
      std::async(std::launch::async, [&] { return world.broker->Reset(); });
  EXPECT_THAT(waits.get(), StatusIs(absl::StatusCode::kAborted));
  leave.set_value();
  EXPECT_OK(under_way.get());
  ASSERT_OK(reset.get());
  EXPECT_TRUE(world.states.IsWholly(World::Window(), PageState::kShared));
}

// What the rate limit holds up is in no queue. It was meant for the guest from
// before, though no page that it names changed in the reset.
TEST(ConversionBrokerResetTest, NothingOutlivesItInARateLimit) {
  World* at = nullptr;
  ConversionBrokerOptions options;
  options.policy.per_second = 1;
  options.policy.burst = 1;
  options.delay = [&](std::chrono::nanoseconds) {
    ASSERT_OK(at->broker->Reset());
  };
  World world(options);
  at = &world;
  MustConvert(world, Page(0x20000), kToPrivate);  // the one in the burst
  FaultConversion fault = world.Fault(0x8000, PageState::kShared);
  EXPECT_EQ(fault.action, FaultAction::kResume);
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_THAT(world.Guest(Page(0x8000), kToShared).detail,
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_EQ(world.broker->stats().delayed, 2u);
}

TEST(ConversionBrokerResetTest, AShutDownFaultDoesNotResume) {
  World world;
  world.broker->Pause();
  auto fault = std::async(std::launch::async, [&] {
    return world.Fault(0x8000, PageState::kShared);
  });
  while (world.broker->stats().queued != 1) std::this_thread::yield();
  world.broker->Shutdown();
  EXPECT_EQ(fault.get().action, FaultAction::kFail);
}

// Three strays: one where Linux writes before it reports, on either side.
void Stray(World& world) {
  MustConvert(world, Page(0x8000), kToShared);
  world.backend.Back(BackingSide::kPrivate, GuestAddress(0x8000), 1);
  world.backend.Back(BackingSide::kShared, GuestAddress(0xa000), 2);
  world.backend.Back(BackingSide::kShared, GuestAddress(0xb000), 3);
}

void ExpectFound(const absl::StatusOr<ReconcileReport>& report, bool freed) {
  ASSERT_OK(report);
  EXPECT_EQ(report->private_bytes, 0x1000u);
  EXPECT_EQ(report->shared_bytes, 0x2000u);
  EXPECT_EQ(report->double_backed_bytes(), 0x3000u);
  EXPECT_EQ(report->freed_bytes, freed ? 0x3000u : 0u);
  EXPECT_EQ(report->counted_only, !freed);
}

TEST(ConversionBrokerReconcileTest, CountsBesideALiveGuestAndTakesNothing) {
  World world;
  Stray(world);
  ExpectFound(world.broker->Reconcile(), /*freed=*/false);
  world.broker->Pause();
  ExpectFound(world.broker->Reconcile(), /*freed=*/false);
  world.broker->Resume();
  EXPECT_EQ(world.broker->stats().reconciled_bytes, 0u);
  // The guest tells now, and finds what it wrote.
  MustConvert(world, Page(0x8000), kToPrivate);
  MustConvert(world, Range(0xa000, 0x2000), kToShared);
  EXPECT_EQ(world.Read(0x8000), 1u);
  EXPECT_EQ(world.Read(0xa000), 2u);
  EXPECT_EQ(world.Read(0xb000), 3u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerReconcileTest, FreesForAPausedGuestThatToldAll) {
  World world;
  Stray(world);
  EXPECT_THAT(world.broker->Reconcile(GuestPages::kAllReported),
              StatusIs(kPrecondition, HasSubstr("not paused")));
  EXPECT_TRUE(world.backend.Get(GuestAddress(0xa000)).shared.has_value());
  world.broker->Pause();
  ExpectFound(world.broker->Reconcile(GuestPages::kAllReported),
              /*freed=*/true);
  world.broker->Resume();
  EXPECT_EQ(world.broker->stats().reconciled_bytes, 0x3000u);
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerReconcileTest, FreesBeforeAGuestAndAfterIt) {
  auto building = World::Building();
  building->backend.Back(BackingSide::kShared, GuestAddress(0xa000), 2);
  auto report = building->broker->Reconcile();
  ASSERT_OK(report);
  EXPECT_EQ(report->freed_bytes, 0x1000u);
  EXPECT_FALSE(report->counted_only);

  World ended;
  Stray(ended);
  ended.broker->Shutdown();
  ExpectFound(ended.broker->Reconcile(), /*freed=*/false);  // vCPUs may run on
  ended.broker->GuestStopped();
  ExpectFound(ended.broker->CountDoubleBacked(), /*freed=*/false);
  ExpectFound(ended.broker->Reconcile(), /*freed=*/true);
  EXPECT_EQ(ended.broker->CountDoubleBacked()->double_backed_bytes(), 0u);
  EXPECT_EQ(ended.Wrong(), "");
}

TEST(ConversionBrokerReconcileTest, LeavesPendingPagesToTheirLease) {
  ConversionBrokerOptions options;
  options.lease_wait = std::chrono::nanoseconds(0);
  World world(options);
  MustConvert(world, Range(0x8000, 0x2000), kToShared);
  world.Fill(7);
  std::optional<Lease> lease = *world.view->Acquire(Page(0x8000));
  MustConvert(world, Range(0x8000, 0x2000), kToPrivate);
  world.broker->GuestStopped();
  auto report = world.broker->Reconcile();
  ASSERT_OK(report);
  EXPECT_EQ(report->leased_bytes, kPageSize);
  EXPECT_EQ(report->freed_bytes, 0u);
  EXPECT_EQ(world.backend.Get(GuestAddress(0x8000)).shared, 0x8007u);
  lease.reset();
  while (world.broker->stats().pending_private_bytes != 0) {
    std::this_thread::yield();
  }
  EXPECT_EQ(world.broker->CountDoubleBacked()->double_backed_bytes(), 0u);
}

// What cannot be freed stays a leftover, and what is gone is none.
TEST(ConversionBrokerReconcileTest, KeepsTheLeftoversTrue) {
  World world;
  MustConvert(world, Range(0x8000, 0x3000), kToShared);
  world.Fill(7);
  world.backend.FailCalls(Method::kFreeShared, 0, 1,
                          absl::InternalError("told to"));
  MustConvert(world, Range(0x8000, 0x3000), kToPrivate);
  EXPECT_EQ(world.broker->stats().leftover_bytes, 0x3000u);
  ASSERT_OK(world.broker->CountDoubleBacked());
  EXPECT_EQ(world.broker->stats().leftover_bytes, 0x3000u);
  // Somebody else frees the page in the middle.
  ASSERT_OK(world.backend.FreeShared(Page(0x9000)));
  ASSERT_OK(world.broker->CountDoubleBacked());
  EXPECT_EQ(world.broker->stats().leftover_bytes, 0x2000u);
  EXPECT_EQ(world.Wrong(), "");
}

// Fails the n-th call of the backend for n = 0, 1, ... until nothing fails.
TEST(ConversionBrokerReconcileTest, EveryFailureIsReportedAfterTryingAll) {
  uint64_t failures = 0;
  for (;; ++failures) {
    SCOPED_TRACE(absl::StrCat("call ", failures));
    World world;
    Stray(world);
    world.broker->GuestStopped();
    world.backend.FailCalls(std::nullopt, failures, 1,
                            absl::InternalError("told to"));
    auto report = world.broker->Reconcile();
    const bool failed = world.backend.failed();
    EXPECT_EQ(report.ok(), !failed);
    world.backend.FailNothing();
    EXPECT_OK(world.broker->fatal());
    // At most one find or one free came to nothing.
    const uint64_t left =
        world.broker->CountDoubleBacked()->double_backed_bytes();
    EXPECT_LE(left, 0x2000u);
    EXPECT_EQ(world.broker->stats().reconciled_bytes, 0x3000 - left);
    auto again = world.broker->Reconcile();
    ASSERT_OK(again);
    EXPECT_EQ(again->freed_bytes, left);
    EXPECT_EQ(world.Wrong(), "");
    if (!failed) break;
  }
  // Three stretches of the map, one of them without strays; two runs of pages.
  EXPECT_EQ(failures, 5u);
}

TEST(ConversionBrokerReconcileTest, InPlaceThereIsNothingToFind) {
  World world({}, ConversionContent::kPreserved);
  world.broker->GuestStopped();
  auto report = world.broker->Reconcile();
  ASSERT_OK(report);
  EXPECT_EQ(report->double_backed_bytes(), 0u);
  EXPECT_EQ(world.backend.calls(Method::kFind), 0u);
}

}  // namespace
}  // namespace cloister::memory
