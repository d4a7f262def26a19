// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/all_or_none.h"

#include <vector>

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "cloister/memory/conversion_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::GuestRange;
using memory::HostConversionReason;
using memory::PageState;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Method = memory::FakeBackend::Method;
using World = memory::ConversionWorld;

constexpr uint64_t kWindow = World::kWindow;

// Two pages of the window, apart: each is a step of the backend's.
std::vector<GuestRange> TwoPages() {
  return {World::Page(kWindow), World::Page(kWindow + 0x2000)};
}

class AllOrNoneTest : public ::testing::Test {
 protected:
  absl::StatusOr<uint64_t> Convert(const std::vector<GuestRange>& ranges,
                                   PageState to) {
    return ConvertAllOrNone(*world_.broker, world_.states, ranges, to,
                            HostConversionReason::kExchangeWindow);
  }
  bool WindowIs(PageState state) {
    return world_.states.IsWholly(World::Window(), state);
  }

  World world_{World::WithWindow()};
};

TEST_F(AllOrNoneTest, ConvertsAll) {
  EXPECT_THAT(Convert(TwoPages(), PageState::kPrivate), IsOkAndHolds(0x2000u));
  EXPECT_EQ(world_.State(kWindow), PageState::kPrivate);
  EXPECT_EQ(world_.State(kWindow + 0x1000), PageState::kShared);
  EXPECT_EQ(world_.State(kWindow + 0x2000), PageState::kPrivate);
  EXPECT_THAT(Convert({World::Window()}, PageState::kPrivate),
              IsOkAndHolds(0x2000u));
}

TEST_F(AllOrNoneTest, TakesBackWhatCameBeforeAFailure) {
  world_.backend.FailCalls(Method::kSet, 1, 1, absl::InternalError("told to"));
  EXPECT_THAT(Convert(TwoPages(), PageState::kPrivate),
              StatusIs(absl::StatusCode::kInternal,
                       AllOf(HasSubstr("told to"), HasSubstr("after 4096"),
                             HasSubstr("taken back"))));
  EXPECT_TRUE(world_.backend.failed());
  EXPECT_TRUE(WindowIs(PageState::kShared));
  EXPECT_EQ(world_.Wrong(), "");
  // Nothing is left in the way of the next.
  EXPECT_THAT(Convert(TwoPages(), PageState::kPrivate), IsOkAndHolds(0x2000u));

  // The other way; what was shared before the request stays it.
  world_.backend.FailCalls(Method::kReserve, 1, 1, absl::InternalError("no"));
  EXPECT_THAT(Convert({World::Window()}, PageState::kShared),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("taken back")));
  EXPECT_EQ(world_.State(kWindow), PageState::kPrivate);
  EXPECT_EQ(world_.State(kWindow + 0x1000), PageState::kShared);
  EXPECT_EQ(world_.State(kWindow + 0x2000), PageState::kPrivate);
  EXPECT_EQ(world_.Wrong(), "");
}

TEST_F(AllOrNoneTest, AFailureOfTheFirstStepHasNothingToTakeBack) {
  world_.backend.FailCalls(Method::kSet, 0, 1, absl::InternalError("told to"));
  EXPECT_THAT(Convert(TwoPages(), PageState::kPrivate),
              StatusIs(absl::StatusCode::kInternal,
                       AllOf(HasSubstr("told to"), Not(HasSubstr("taken")))));
  EXPECT_TRUE(WindowIs(PageState::kShared));
}

TEST_F(AllOrNoneTest, SaysWhatItCouldNotTakeBack) {
  world_.backend.FailCalls(Method::kSet, 1, 1, absl::InternalError("told to"));
  world_.a.RefusePrepare(1);
  EXPECT_THAT(
      Convert(TwoPages(), PageState::kPrivate),
      StatusIs(absl::StatusCode::kInternal,
               AllOf(HasSubstr("told to"),
                     HasSubstr("4096 bytes from 0x100000 on stay private"),
                     HasSubstr("told to refuse"))));
  EXPECT_EQ(world_.State(kWindow), PageState::kPrivate);
  EXPECT_EQ(world_.State(kWindow + 0x2000), PageState::kShared);
}

TEST_F(AllOrNoneTest, RefusalsAreTheBrokersOwn) {
  const uint64_t before = world_.backend.calls(Method::kSet);
  const GuestRange mixed[] = {World::Page(kWindow), World::Page(0x8000)};
  for (const std::vector<GuestRange>& ranges :
       {std::vector<GuestRange>(mixed, mixed + 2), std::vector<GuestRange>(),
        std::vector<GuestRange>{World::Range(kWindow, 0x800)},
        std::vector<GuestRange>{World::Range(0, uint64_t{1} << 62)}}) {
    EXPECT_FALSE(Convert(ranges, PageState::kPrivate).ok());
    EXPECT_TRUE(WindowIs(PageState::kShared));
  }
  EXPECT_EQ(world_.backend.calls(Method::kSet), before);
}

}  // namespace
}  // namespace cloister::api
