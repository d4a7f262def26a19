// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/balloon_memory.h"

#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::ConversionWorld;
using memory::FakeBackend;
using memory::GuestAddress;
using memory::GuestRange;
using memory::HostConversionReason;
using memory::kPageSize;
using memory::PageState;
using ::testing::HasSubstr;

class BalloonMemoryTest : public ::testing::Test {
 protected:
  BalloonMemoryTest() { world_.Fill(1); }
  static GuestRange Range(uint64_t start, uint64_t size) {
    return ConversionWorld::Range(start, size);
  }
  bool Backed(uint64_t page) {
    const FakeBackend::Page cell = world_.backend.Get(GuestAddress(page));
    return cell.shared.has_value() || cell.private_.has_value();
  }

  ConversionWorld world_{ConversionWorld::WithWindow()};
  BalloonMemory balloon_{&world_.states,
                         &world_.backend,
                         world_.broker.get(),
                         {ConversionWorld::Window()}};
};

TEST_F(BalloonMemoryTest, FreesPrivatePagesAndLeavesThemPrivate) {
  EXPECT_THAT(balloon_.GiveUp(Range(0x8000, 0x3000)), IsOkAndHolds(0x3000u));
  for (uint64_t page : {0x8000, 0x9000, 0xa000}) {
    EXPECT_FALSE(Backed(page));
    EXPECT_EQ(world_.State(page), PageState::kPrivate);
  }
  EXPECT_EQ(world_.Read(0x7000), 0x7001u);
  EXPECT_EQ(world_.Read(0xb000), 0xb001u);
  ASSERT_OK(balloon_.TakeBack(Range(0x8000, 0x3000)));
  EXPECT_EQ(world_.Read(0x8000), 0u);
  EXPECT_EQ(world_.Wrong(), "");
}

TEST_F(BalloonMemoryTest, FreesSharedPagesWhereTheyAre) {
  world_.Guest(Range(0x8000, 0x2000), ConversionWorld::kToShared);
  world_.backend.GuestWrite(GuestAddress(0x8000), 7);
  // One range, of both kinds.
  EXPECT_THAT(balloon_.GiveUp(Range(0x7000, 0x4000)), IsOkAndHolds(0x4000u));
  EXPECT_FALSE(Backed(0x7000) || Backed(0x8000) || Backed(0xa000));
  EXPECT_EQ(world_.State(0x8000), PageState::kShared);
  EXPECT_EQ(world_.State(0xa000), PageState::kPrivate);
  EXPECT_EQ(world_.Wrong(), "");
}

TEST_F(BalloonMemoryTest, TheHostMayConvertOnlyWhatIsGivenUp) {
  const GuestRange page = Range(0x8000, kPageSize);
  ASSERT_OK(balloon_.GiveUp(page));
  EXPECT_OK(
      world_.Host(page, PageState::kShared, HostConversionReason::kGivenUp));
  ASSERT_OK(balloon_.TakeBack(page));
  EXPECT_EQ(world_.State(0x8000), PageState::kPrivate);
  EXPECT_THAT(
      world_.Host(page, PageState::kShared, HostConversionReason::kGivenUp),
      StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(BalloonMemoryTest, TakesAllBackAtOnce) {
  ASSERT_OK(balloon_.GiveUp(Range(0x8000, kPageSize)));
  ASSERT_OK(balloon_.GiveUp(Range(0x20000, kPageSize)));
  ASSERT_OK(balloon_.TakeBackAll());
  for (uint64_t at : {0x8000, 0x20000}) {
    EXPECT_THAT(world_.Host(Range(at, kPageSize), PageState::kShared,
                            HostConversionReason::kGivenUp),
                StatusIs(absl::StatusCode::kFailedPrecondition));
  }
}

TEST_F(BalloonMemoryTest, AGuestThatDoesNotRunGetsNothingBack) {
  ASSERT_OK(balloon_.GiveUp(Range(0x8000, kPageSize)));
  world_.broker->GuestStopped();
  EXPECT_OK(balloon_.TakeBackAll());
  EXPECT_THAT(balloon_.Discard(Range(0x9000, kPageSize)),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(BalloonMemoryTest, ADiscardIsOverWhenItReturns) {
  EXPECT_THAT(balloon_.Discard(Range(0x8000, 0x4000)), IsOkAndHolds(0x4000u));
  EXPECT_FALSE(Backed(0x8000));
  EXPECT_EQ(world_.State(0x8000), PageState::kPrivate);
  EXPECT_THAT(world_.Host(Range(0x8000, kPageSize), PageState::kShared,
                          HostConversionReason::kGivenUp),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(world_.Wrong(), "");
}

// Freed, but not as the guest had it before the host converted it.
TEST_F(BalloonMemoryTest, ADiscardThatGivesNothingBackFails) {
  const GuestRange page = Range(0x8000, kPageSize);
  ASSERT_OK(balloon_.GiveUp(page));
  ASSERT_OK(
      world_.Host(page, PageState::kShared, HostConversionReason::kGivenUp));
  world_.backend.FailCalls(FakeBackend::Method::kSet, 0, 1,
                           absl::InternalError("told to"));
  EXPECT_THAT(balloon_.Discard(page).status().message(), HasSubstr("told to"));
  EXPECT_TRUE(world_.backend.failed());
  world_.backend.FailNothing();
  ASSERT_OK(balloon_.TakeBack(page));
  EXPECT_EQ(world_.State(0x8000), PageState::kPrivate);
  EXPECT_EQ(world_.Wrong(), "");
}

TEST_F(BalloonMemoryTest, RefusesWhatIsNotOrdinaryRam) {
  for (const GuestRange& range :
       {Range(0x1000, kPageSize), Range(0x3000, 2 * kPageSize),
        Range(ConversionWorld::kEnd - kPageSize, 2 * kPageSize),
        Range(uint64_t{1} << 40, kPageSize), ConversionWorld::Window(),
        Range(0x8000, 100), Range(0x8010, kPageSize)}) {
    EXPECT_THAT(balloon_.GiveUp(range),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(balloon_.TakeBack(range),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(balloon_.Discard(range),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_TRUE(Backed(0x3f000) && Backed(0x4000));
}

TEST_F(BalloonMemoryTest, SurvivesEveryFailureOfTheBackend) {
  for (uint64_t call = 0;; ++call) {
    world_.backend.FailCalls(std::nullopt, call, 1,
                             absl::InternalError("told to"));
    const auto freed = balloon_.Discard(Range(0x8000, 0x8000));
    const bool failed = world_.backend.failed();
    world_.backend.FailNothing();
    EXPECT_EQ(world_.Wrong(), "") << call;
    ASSERT_OK(balloon_.TakeBack(Range(0x8000, 0x8000)));
    EXPECT_EQ(world_.State(0x8000), PageState::kPrivate) << call;
    if (!failed) {
      EXPECT_OK(freed);
      break;
    }
    ASSERT_LT(call, 100u);
  }
}

TEST(BalloonMemoryOffTest, FreesEverythingWithoutABroker) {
  ConversionWorld world;
  world.Guest(ConversionWorld::Range(0x8000, 0x2000),
              ConversionWorld::kToShared);
  world.backend.GuestWrite(GuestAddress(0x8000), 7);
  BalloonMemory balloon(&world.states, &world.backend, nullptr);
  EXPECT_THAT(balloon.GiveUp(ConversionWorld::Range(0x8000, 0x2000)),
              IsOkAndHolds(0x2000u));
  EXPECT_FALSE(world.backend.Get(GuestAddress(0x8000)).shared.has_value());
  EXPECT_OK(balloon.TakeBack(ConversionWorld::Range(0x8000, 0x2000)));
  EXPECT_OK(balloon.TakeBackAll());
}

}  // namespace
}  // namespace cloister::vmm
