// SPDX-License-Identifier: Apache-2.0
//
// What the broker's policy allows, refuses and delays.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <thread>
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
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Method = FakeBackend::Method;
using Reason = HostConversionReason;

constexpr uint64_t kEnd = ConversionWorld::kEnd;
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
};

TEST(ConversionBrokerPolicyTest, ImplicitPolicyHoldsFromItsSetPoint) {
  for (ImplicitPolicy policy : {ImplicitPolicy::kAllow, ImplicitPolicy::kCount,
                                ImplicitPolicy::kDeny}) {
    ConversionBrokerOptions options;
    options.policy.implicit = policy;
    World world(options);
    auto fault = [&](uint64_t at) {
      return world.broker->ConvertForFault(GuestAddress(at), PageState::kShared,
                                           world.states.CurrentGeneration());
    };
    EXPECT_EQ(fault(0x8000).action, FaultAction::kResume);
    EXPECT_EQ(world.broker->stats().implicit_after_set_point, 0u);
    world.broker->ArmImplicitPolicy();
    const bool denied = policy == ImplicitPolicy::kDeny;
    EXPECT_EQ(fault(0x9000).action,
              denied ? FaultAction::kDeny : FaultAction::kResume);
    EXPECT_EQ(world.states.Get(GuestAddress(0x9000)),
              denied ? PageState::kPrivate : PageState::kShared);
    EXPECT_EQ(world.broker->stats().implicit_after_set_point,
              policy == ImplicitPolicy::kCount ? 1u : 0u);
    EXPECT_EQ(world.broker->stats().implicit_denied, denied ? 1u : 0u);
    EXPECT_EQ(fault(kEnd).action, FaultAction::kDeny);
    EXPECT_EQ(fault(0x1000).action, FaultAction::kDeny);  // aliased
    EXPECT_EQ(fault(0x8001).action, FaultAction::kFail);
    EXPECT_EQ(world.Wrong(), "");
  }
}

TEST(ConversionBrokerPolicyTest, TheSharedLimitRefusesAndGivesBack) {
  ConversionBrokerOptions options;
  options.policy.shared_limit = 0x4000;
  World world(options);
  world.MustConvert(Range(0x8000, 0x3000), kToShared);
  EXPECT_EQ(world.Guest(Range(0x10000, 0x2000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  // A failed request keeps nothing of the budget.
  world.backend.FailCalls(Method::kReserve, 0, 1, absl::InternalError("no"));
  EXPECT_EQ(world.Guest(Range(0x10000, 0x1000), kToShared).code,
            GuestConversionCode::kFailed);
  world.MustConvert(Range(0x10000, 0x1000), kToShared);
  world.MustConvert(Range(0x8000, 0x3000), kToPrivate);
  world.MustConvert(Range(0x8000, 0x3000), kToShared);
  EXPECT_EQ(world.broker->stats().shared_bytes, 0x4000u);
}

ConversionBrokerOptions LimitedTo(uint64_t bytes) {
  ConversionBrokerOptions options = ConversionWorld::WithWindow();
  options.policy.shared_limit = bytes;
  return options;
}

// What is under way counts: two requests cannot both have the last page.
TEST(ConversionBrokerPolicyTest, TheSharedLimitCountsWhatIsUnderWay) {
  // The window's pages are shared and count as well.
  World world(LimitedTo(0x4000 + ConversionWorld::kWindowSize));
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> first{true};
  world.backend.during_set = [&](const GuestRange&, PageState) {
    if (!first.exchange(false)) return;
    entered.set_value();
    leave.get_future().wait();
  };
  auto one = std::async(std::launch::async, [&] {
    return world.Guest(Range(0x8000, 0x4000), kToShared).code;
  });
  entered.get_future().wait();
  EXPECT_EQ(world.State(0x8000), PageState::kPrivate);
  EXPECT_EQ(world.Guest(Range(0x20000, 0x1000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  leave.set_value();
  EXPECT_EQ(one.get(), GuestConversionCode::kOk);
  EXPECT_EQ(world.Guest(Range(0x20000, 0x1000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  EXPECT_EQ(world.State(0x20000), PageState::kPrivate);
}

TEST(ConversionBrokerPolicyTest, TheSharedLimitHoldsForFaultsAndTheHost) {
  World world(LimitedTo(0x1000 + ConversionWorld::kWindowSize));
  EXPECT_EQ(world.Fault(0x8000, PageState::kShared).action,
            FaultAction::kResume);
  FaultConversion denied = world.Fault(0x9000, PageState::kShared);
  EXPECT_EQ(denied.action, FaultAction::kDeny);
  EXPECT_THAT(denied.detail, StatusIs(absl::StatusCode::kPermissionDenied));
  ASSERT_OK(world.broker->GuestGaveUp(Range(0xa000, 0x1000)));
  EXPECT_THAT(
      world.Host(Range(0xa000, 0x1000), PageState::kShared, Reason::kGivenUp),
      StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(world.State(0xa000), PageState::kPrivate);
  // Room that a request gives back is there for the next.
  EXPECT_OK(world.Host(Range(ConversionWorld::kWindow, 0x1000),
                       PageState::kPrivate, Reason::kExchangeWindow));
  EXPECT_EQ(world.Fault(0x9000, PageState::kShared).action,
            FaultAction::kResume);
  EXPECT_EQ(world.Wrong(), "");
}

// A balloon gives back no shared page that its guest has made private, so that
// the room cannot be used twice.
TEST(ConversionBrokerPolicyTest, ABalloonGivesNoRoomBeyondTheSharedLimit) {
  constexpr uint64_t kLimit = 0x4000;
  World world(LimitedTo(kLimit + ConversionWorld::kWindowSize));
  world.MustConvert(Range(0x8000, kLimit), kToShared);
  for (uint64_t at = 0x8000; at < 0x30000; at += kLimit) {
    const GuestRange shared = Range(at, kLimit);
    const GuestRange next = Range(at + kLimit, kLimit);
    ASSERT_OK(world.broker->GuestGaveUp(shared));
    ASSERT_OK(world.broker->FreeGivenUp(shared));
    // By one fault, and one hypercall for the rest.
    EXPECT_EQ(world.Fault(at, PageState::kPrivate).action,
              FaultAction::kResume);
    world.MustConvert(shared, kToPrivate);
    for (uint64_t page = at; page < at + kLimit; page += kPageSize) {
      world.backend.GuestWrite(GuestAddress(page), page + 1);
    }
    world.MustConvert(next, kToShared);
    ASSERT_OK(world.broker->GuestTookBack(shared));
    ASSERT_OK(world.broker->GuestTookBackAll());
    EXPECT_TRUE(world.states.IsWholly(shared, PageState::kPrivate));
    for (uint64_t page = at; page < at + kLimit; page += kPageSize) {
      EXPECT_EQ(world.Read(page), page + 1);
    }
    EXPECT_EQ(world.broker->stats().shared_bytes,
              kLimit + ConversionWorld::kWindowSize);
    EXPECT_EQ(world.Guest(Range(0x3f000, 0x1000), kToShared).code,
              GuestConversionCode::kNotPermitted);
  }
  EXPECT_EQ(world.Wrong(), "");
}

TEST(ConversionBrokerPolicyTest, WhatTheSharedLimitRefusesStaysGivenUp) {
  World world(LimitedTo(ConversionWorld::kWindowSize));
  const GuestRange page = Range(0x8000, 0x1000);
  ASSERT_OK(world.broker->GuestGaveUp(page));
  EXPECT_EQ(world.Guest(page, kToShared).code,
            GuestConversionCode::kNotPermitted);
  EXPECT_EQ(world.Fault(0x8000, PageState::kShared).action, FaultAction::kDeny);
  EXPECT_OK(world.Host(page, PageState::kPrivate, Reason::kGivenUp));
}

// A request stops in the middle: what was not shared is not counted.
TEST(ConversionBrokerPolicyTest, TheSharedLimitCountsHalfOfAFailure) {
  World world(LimitedTo(0x8000 + ConversionWorld::kWindowSize));
  world.backend.FailCalls(Method::kReserve, 1, 1, absl::InternalError("no"));
  GuestConversion half = world.Guest(Range(0x8000, 0x8000), kToShared);
  EXPECT_EQ(half.code, GuestConversionCode::kFailed);
  EXPECT_EQ(half.bytes_changed, 0x4000u);
  EXPECT_EQ(world.Guest(Range(0x20000, 0x5000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  world.MustConvert(Range(0x20000, 0x4000), kToShared);
  // And the other way: what did not turn private is still counted.
  world.backend.FailCalls(Method::kSet, 1, 1, absl::InternalError("no"));
  EXPECT_EQ(world.Guest(Range(0x20000, 0x4000), kToPrivate).bytes_changed,
            0x4000u);
  EXPECT_EQ(world.Guest(Range(0x8000, 0x4000), kToPrivate).bytes_changed, 0u);
  EXPECT_EQ(world.Guest(Range(0x30000, 0x5000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  world.MustConvert(Range(0x30000, 0x4000), kToShared);
}

TEST(ConversionBrokerPolicyTest, WhatTheBuilderStagesPassesTheLimit) {
  auto world = ConversionWorld::Building(LimitedTo(0x1000));
  const GuestRange staged = Range(0x8000, 0x8000);
  EXPECT_THAT(world->Host(staged, PageState::kShared, Reason::kBeforeBoot),
              IsOkAndHolds(0x8000u));
  ASSERT_OK(world->broker->BeginLaunch());
  EXPECT_EQ(world->Guest(Range(0x20000, 0x1000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  ASSERT_OK(world->broker->FinishLaunch({&staged, 1}));
  // The window alone is past the limit.
  EXPECT_EQ(world->Guest(Range(0x20000, 0x1000), kToShared).code,
            GuestConversionCode::kNotPermitted);
  EXPECT_EQ(world->Guest(staged, kToPrivate).code, GuestConversionCode::kOk);
}

// Time that stands still unless the test moves it, and delays that are only
// noted down.
struct FakeTime {
  ConversionBrokerOptions Options(uint64_t per_second, uint64_t burst) {
    ConversionBrokerOptions options;
    options.policy.per_second = per_second;
    options.policy.burst = burst;
    options.now = [this] { return now; };
    options.delay = [this](nanoseconds delay) { delays.push_back(delay); };
    return options;
  }
  std::chrono::steady_clock::time_point now{seconds(1000)};
  std::vector<nanoseconds> delays;
};

TEST(ConversionBrokerPolicyTest, TheRateLimitDelaysAndDoesNotRefuse) {
  FakeTime time;
  World world(time.Options(100, 2));
  world.MustConvert(Range(0x8000, 0x1000), kToShared);
  world.MustConvert(Range(0x9000, 0x1000), kToShared);
  EXPECT_THAT(time.delays, IsEmpty());
  // No-ops and bad requests count, so that they cannot flood the monitor.
  world.MustConvert(Range(0x9000, 0x1000), kToShared);
  EXPECT_EQ(world.Guest(Range(kEnd, 0x1000), kToShared).code,
            GuestConversionCode::kInvalid);
  EXPECT_EQ(world.Fault(0xa000, PageState::kShared).action,
            FaultAction::kResume);
  EXPECT_THAT(time.delays, ElementsAre(milliseconds(10), milliseconds(20),
                                       milliseconds(30)));
  EXPECT_EQ(world.State(0xa000), PageState::kShared);
  EXPECT_EQ(world.broker->stats().delayed, 3u);
  time.now += milliseconds(30);
  world.MustConvert(Range(0x8000, 0x1000), kToPrivate);
  EXPECT_EQ(time.delays.back(), milliseconds(10));
  time.now += seconds(1);
  world.MustConvert(Range(0x9000, 0x1000), kToPrivate);
  world.MustConvert(Range(0xa000, 0x1000), kToPrivate);
  EXPECT_EQ(time.delays.size(), 4u);
}

// Another vCPU's conversions make faults stale; a vCPU that only resumes must
// not pay for them.
TEST(ConversionBrokerPolicyTest, VoidFaultsTakeNoToken) {
  FakeTime time;
  World world(time.Options(1, 2));
  const uint64_t before = world.states.CurrentGeneration();
  world.MustConvert(Range(0x8000, 0x1000), kToShared);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(
        world.broker
            ->ConvertForFault(GuestAddress(0x9000), PageState::kShared, before)
            .action,
        FaultAction::kResume);
    EXPECT_EQ(world.Fault(0x8000, PageState::kShared).action,
              FaultAction::kResume);
  }
  EXPECT_EQ(world.broker->stats().stale_faults, 10u);
  EXPECT_EQ(world.broker->stats().needless_faults, 10u);
  EXPECT_EQ(world.State(0x9000), PageState::kPrivate);
  world.MustConvert(Range(0x9000, 0x1000), kToShared);
  EXPECT_THAT(time.delays, IsEmpty());
  world.MustConvert(Range(0xa000, 0x1000), kToShared);
  EXPECT_EQ(time.delays.size(), 1u);
}

TEST(ConversionBrokerPolicyTest, TheHostIsNotHeldUp) {
  FakeTime time;
  ConversionBrokerOptions options = time.Options(1, 1);
  options.exchange_windows = {ConversionWorld::Window()};
  World world(options);
  for (int i = 0; i < 5; ++i) {
    for (PageState to : {PageState::kPrivate, PageState::kShared}) {
      EXPECT_OK(
          world.Host(ConversionWorld::Window(), to, Reason::kExchangeWindow));
    }
  }
  EXPECT_THAT(time.delays, IsEmpty());
}

// By default it really waits, and the VM's end does not.
TEST(ConversionBrokerPolicyTest, ShutdownEndsARealDelay) {
  ConversionBrokerOptions options;
  options.policy.per_second = 1;
  options.policy.burst = 1;
  FakeTime time;
  options.now = [&] { return time.now; };
  World world(options);
  world.MustConvert(Range(0x8000, 0x1000), kToShared);
  time.now -= std::chrono::hours(1);  // as if there were an hour of debt
  auto waits = std::async(std::launch::async, [&] {
    return world.Guest(Range(0x9000, 0x1000), kToShared).code;
  });
  while (world.broker->stats().delayed != 1) std::this_thread::yield();
  world.broker->Shutdown();
  EXPECT_EQ(waits.get(), GuestConversionCode::kFailed);
  EXPECT_EQ(world.State(0x9000), PageState::kPrivate);
}

}  // namespace
}  // namespace cloister::memory
