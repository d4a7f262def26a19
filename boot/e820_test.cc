// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/e820.h"

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

GuestRange Range(uint64_t first, uint64_t end) {
  return *GuestRange::Create(GuestAddress(first), end - first);
}

const GuestRange kHole = Range(0xc0000000, kFourGiB);

TEST(SplitRamTest, SmallGuestsStayBelowTheHole) {
  EXPECT_THAT(*SplitRam(256 * kMiB, kHole), ElementsAre(Range(0, 256 * kMiB)));
  EXPECT_THAT(*SplitRam(0xc0000000, kHole), ElementsAre(Range(0, 0xc0000000)));
}

TEST(SplitRamTest, TheRestGoesAboveFourGiB) {
  EXPECT_THAT(
      *SplitRam(0xc0001000, kHole),
      ElementsAre(Range(0, 0xc0000000), Range(kFourGiB, kFourGiB + 0x1000)));
}

TEST(SplitRamTest, RefusesSizesNoGuestCanHave) {
  EXPECT_THAT(SplitRam(0, kHole), StatusIs(kInvalid, HasSubstr("least")));
  EXPECT_THAT(SplitRam(kMiB, kHole), StatusIs(kInvalid, HasSubstr("least")));
  EXPECT_THAT(SplitRam(4 * kMiB + 1, kHole),
              StatusIs(kInvalid, HasSubstr("page size")));
  EXPECT_THAT(SplitRam(UINT64_MAX - 4095, kHole),
              StatusIs(kInvalid, HasSubstr("52-bit")));
  EXPECT_OK(SplitRam((uint64_t{1} << 52) - kFourGiB + 0xc0000000, kHole));
}

TEST(SplitRamTest, RefusesStrangeHoles) {
  EXPECT_FALSE(SplitRam(4 * kMiB, Range(0x1000, kFourGiB)).ok());
  EXPECT_FALSE(SplitRam(4 * kMiB, Range(0xc0000000, 0xd0000000)).ok());
  EXPECT_FALSE(SplitRam(4 * kMiB, Range(0xc0000001, kFourGiB)).ok());
}

TEST(ValidateLayoutTest, AcceptsReservationsOutsideOfRam) {
  EXPECT_OK(ValidateLayout(
      {.ram = {Range(0, 64 * kMiB)},
       .reserved = {{Range(0xfed00000, 0xfed01000), E820Type::kReserved}}}));
}

TEST(ValidateLayoutTest, NamesTheBadRange) {
  EXPECT_THAT(ValidateLayout({}), StatusIs(kInvalid, HasSubstr("address 0")));
  EXPECT_THAT(ValidateLayout({.ram = {Range(kMiB, 64 * kMiB)}}),
              StatusIs(kInvalid, HasSubstr("address 0")));
  EXPECT_THAT(
      ValidateLayout({.ram = {Range(0, 64 * kMiB), Range(32 * kMiB, 65 * kMiB)},
                      .reserved = {}}),
      StatusIs(kInvalid, HasSubstr("overlap")));
  EXPECT_THAT(ValidateLayout({.ram = {Range(0, 64 * kMiB + 1)}}),
              StatusIs(kInvalid, HasSubstr("page-aligned")));
  EXPECT_THAT(ValidateLayout({.ram = {Range(0, uint64_t{1} << 53)}}),
              StatusIs(kInvalid, HasSubstr("52-bit")));
  EXPECT_THAT(ValidateLayout(
                  {.ram = {Range(0, 4 * kMiB)},
                   .reserved = {{Range(3 * kMiB, 5 * kMiB), E820Type::kRam}}}),
              StatusIs(kInvalid, HasSubstr("outside of RAM")));
  EXPECT_THAT(
      ValidateLayout(
          {.ram = {Range(0, 8 * kMiB)},
           .reserved = {{Range(3 * kMiB, 5 * kMiB), E820Type::kRam},
                        {Range(4 * kMiB, 6 * kMiB), E820Type::kReserved}}}),
      StatusIs(kInvalid, HasSubstr("overlap")));
}

TEST(UsableRangesTest, StartAtOneMiBAndAvoidReservations) {
  MemoryLayout layout = {
      .ram = {Range(0, 64 * kMiB), Range(kFourGiB, kFourGiB + kMiB)},
      .reserved = {{Range(2 * kMiB, 3 * kMiB), E820Type::kRam},
                   {Range(63 * kMiB, 64 * kMiB), E820Type::kReserved}}};
  EXPECT_THAT(*UsableRanges(layout),
              ElementsAre(Range(kMiB, 2 * kMiB), Range(3 * kMiB, 63 * kMiB),
                          Range(kFourGiB, kFourGiB + kMiB)));
}

TEST(BuildE820Test, HasTheHoleBelowOneMiB) {
  EXPECT_THAT(*BuildE820({.ram = {Range(0, 64 * kMiB)}}, {}),
              ElementsAre(E820Entry{Range(0, 0x9fc00), E820Type::kRam},
                          E820Entry{Range(0x9fc00, kMiB), E820Type::kReserved},
                          E820Entry{Range(kMiB, 64 * kMiB), E820Type::kRam}));
}

TEST(BuildE820Test, ReservationsAndExtrasSplitRam) {
  MemoryLayout layout = {
      .ram = {Range(0, 64 * kMiB), Range(kFourGiB, kFourGiB + kMiB)},
      .reserved = {{Range(kMiB, 2 * kMiB), E820Type::kReserved},
                   {Range(2 * kMiB, 3 * kMiB), E820Type::kRam},
                   {Range(0xfec00000, 0xfec01000), E820Type::kReserved}}};
  EXPECT_THAT(
      *BuildE820(layout, {{Range(8 * kMiB, 9 * kMiB), E820Type::kAcpi}}),
      ElementsAre(E820Entry{Range(0, 0x9fc00), E820Type::kRam},
                  E820Entry{Range(0x9fc00, 2 * kMiB), E820Type::kReserved},
                  E820Entry{Range(2 * kMiB, 8 * kMiB), E820Type::kRam},
                  E820Entry{Range(8 * kMiB, 9 * kMiB), E820Type::kAcpi},
                  E820Entry{Range(9 * kMiB, 64 * kMiB), E820Type::kRam},
                  E820Entry{Range(0xfec00000, 0xfec01000), E820Type::kReserved},
                  E820Entry{Range(kFourGiB, kFourGiB + kMiB), E820Type::kRam}));
}

TEST(BuildE820Test, ALowRamReservationDoesNotUncoverTheHole) {
  MemoryLayout layout = {
      .ram = {Range(0, 64 * kMiB)},
      .reserved = {{Range(0x90000, 0xb0000), E820Type::kRam}}};
  EXPECT_THAT(*BuildE820(layout, {}),
              ElementsAre(E820Entry{Range(0, 0x9fc00), E820Type::kRam},
                          E820Entry{Range(0x9fc00, kMiB), E820Type::kReserved},
                          E820Entry{Range(kMiB, 64 * kMiB), E820Type::kRam}));
}

}  // namespace
}  // namespace cloister::boot
