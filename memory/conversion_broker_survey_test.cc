// SPDX-License-Identifier: Apache-2.0
//
// What the statistics say of memory that is backed twice, and looking for it
// beside a guest that is alive. conversion_broker_reset_test.cc has Reconcile.
#include <future>
#include <thread>

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::memory {
namespace {

using base::StatusIs;
using std::chrono::hours;
using std::chrono::nanoseconds;
using Method = FakeBackend::Method;
using World = ConversionWorld;

// One page that the guest wrote through the private view after it had shared
// it, and two private ones with something on the shared side; one more in the
// window, the second part of RAM.
class ConversionBrokerSurveyTest : public ::testing::Test {
 protected:
  ConversionBrokerSurveyTest() : world_(World::WithWindow()) {
    EXPECT_EQ(world_.Guest(World::Page(0x8000), World::kToShared).code,
              GuestConversionCode::kOk);
    world_.backend.Back(BackingSide::kPrivate, GuestAddress(0x8000), 1);
    world_.backend.Back(BackingSide::kShared, GuestAddress(0xa000), 2);
    world_.backend.Back(BackingSide::kShared, GuestAddress(0xb000), 3);
    world_.backend.Back(BackingSide::kPrivate, GuestAddress(World::kWindow), 4);
  }

  uint64_t Counted() { return world_.broker->stats().double_backed_bytes; }

  World world_;
};

TEST_F(ConversionBrokerSurveyTest, StatisticsHaveWhatTheLastLookFound) {
  EXPECT_EQ(Counted(), 0u) << "nobody has looked";
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x4000u);
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x4000u) << "not added up";
  // It took nothing.
  EXPECT_EQ(world_.backend.Get(GuestAddress(0x8000)).private_, 1u);
  EXPECT_EQ(world_.broker->stats().reconciled_bytes, 0u);

  // The guest shares what it wrote there: no page has two sides any more.
  EXPECT_EQ(world_.Guest(World::Range(0xa000, 0x2000), World::kToShared).code,
            GuestConversionCode::kOk);
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x2000u);
}

TEST_F(ConversionBrokerSurveyTest, CountingAndReconcilingAreLooksToo) {
  ASSERT_OK(world_.broker->CountDoubleBacked());
  EXPECT_EQ(Counted(), 0x4000u);
  world_.broker->GuestStopped();
  ASSERT_OK(world_.broker->Reconcile());
  EXPECT_EQ(Counted(), 0u) << "it was freed";
}

TEST_F(ConversionBrokerSurveyTest, WithoutABudgetEachCallTakesOneStep) {
  ASSERT_OK(world_.broker->SurveyFor(nanoseconds(0)));
  EXPECT_EQ(Counted(), 0x3000u) << "RAM, not the window";
  ASSERT_OK(world_.broker->SurveyFor(nanoseconds(0)));
  EXPECT_EQ(Counted(), 0x4000u);
  // The third call begins anew.
  world_.backend.Back(BackingSide::kShared, GuestAddress(0xc000), 5);
  ASSERT_OK(world_.broker->SurveyFor(nanoseconds(0)));
  EXPECT_EQ(Counted(), 0x5000u);
}

// Two stretches to look at in RAM and one in the window: each part once.
TEST_F(ConversionBrokerSurveyTest, LooksAtEachPartOnceFromWhereItStopped) {
  ASSERT_OK(world_.broker->SurveyFor(nanoseconds(0)));
  const uint64_t in_ram = world_.backend.calls(Method::kFind);
  ASSERT_OK(world_.broker->SurveyFor(nanoseconds(0)));
  const uint64_t all = world_.backend.calls(Method::kFind);
  EXPECT_GT(all, in_ram);
  ASSERT_OK(world_.broker->SurveyFor(nanoseconds(0)));  // in RAM again
  const uint64_t before = world_.backend.calls(Method::kFind);
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(world_.backend.calls(Method::kFind) - before, all);
}

// The call must come back while somebody else is in the middle of converting.
TEST_F(ConversionBrokerSurveyTest, PassesOverPagesThatAreBeingConverted) {
  std::promise<void> converting, go_on;
  std::future<void> may_go_on = go_on.get_future();
  world_.backend.during_set = [&](const GuestRange&, PageState) {
    converting.set_value();
    may_go_on.wait();
  };
  std::thread guest(
      [&] { world_.Guest(World::Page(0x10000), World::kToShared); });
  converting.get_future().wait();
  EXPECT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x1000u) << "the window alone";
  go_on.set_value();
  guest.join();
  EXPECT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x4000u);
  EXPECT_EQ(world_.backend.violations().size(), 0u);
}

TEST_F(ConversionBrokerSurveyTest, GoesOnWhilePausedAndAfterShutdown) {
  world_.broker->Pause();
  EXPECT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x4000u);
  world_.broker->Shutdown();
  EXPECT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(), 0x4000u);
}

TEST_F(ConversionBrokerSurveyTest, ALookThatFailsKeepsWhatWasKnown) {
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  world_.backend.FailCalls(Method::kFind, 0, 100,
                           absl::InternalError("told to"));
  EXPECT_THAT(world_.broker->SurveyFor(hours(1)),
              StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(Counted(), 0x4000u);
}

TEST_F(ConversionBrokerSurveyTest, AResetLeavesNothing) {
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  ASSERT_OK(world_.broker->Reset());
  EXPECT_EQ(Counted(), 0u);
}

TEST_F(ConversionBrokerSurveyTest, KnownLeftoversCountWithoutALook) {
  world_.backend.FailCalls(Method::kFreeShared, 0, 1,
                           absl::InternalError("told to"));
  EXPECT_EQ(world_.Guest(World::Page(0x8000), World::kToPrivate).code,
            GuestConversionCode::kOk);
  EXPECT_EQ(world_.broker->stats().leftover_bytes, 0x1000u);
  EXPECT_EQ(Counted(), 0x1000u);
  world_.backend.FailNothing();
  ASSERT_OK(world_.broker->SurveyFor(hours(1)));
  EXPECT_EQ(Counted(),
            world_.broker->CountDoubleBacked()->double_backed_bytes());
}

TEST(ConversionBrokerSurveyInPlaceTest, ThereIsNothingToFind) {
  World world({}, ConversionContent::kPreserved);
  ASSERT_OK(world.broker->SurveyFor(hours(1)));
  EXPECT_EQ(world.broker->stats().double_backed_bytes, 0u);
  EXPECT_EQ(world.backend.calls(Method::kFind), 0u);
}

}  // namespace
}  // namespace cloister::memory
