// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/launch_image.h"

#include <string>

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

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

Piece MakePiece(PieceType type, uint64_t gpa, size_t data, uint64_t memory) {
  return {type, GuestAddress(gpa),
          SharedBytes(std::vector<uint8_t>(data, 0xaa)), memory};
}

LaunchImage Image() {
  return *LaunchImage::Create({Range(0x1000, 0x1000), Range(0x4000, 0x4000)});
}

TEST(LaunchImageTest, JoinsAdjacentAndRefusesOverlappingUsableRanges) {
  ASSERT_OK_AND_ASSIGN(
      LaunchImage image,
      LaunchImage::Create({Range(0x2000, 0x1000), Range(0x1000, 0x1000),
                           Range(0x8000, 0x1000)}));
  EXPECT_THAT(image.usable(),
              ElementsAre(Range(0x1000, 0x2000), Range(0x8000, 0x1000)));
  EXPECT_THAT(LaunchImage::Create({Range(0x1000, 0x1001), Range(0x2000, 1)}),
              StatusIs(kInvalid, HasSubstr("overlap")));
}

TEST(LaunchImageTest, ListsByTypeThenAddressWhateverTheOrderOfAdd) {
  LaunchImage image = Image();
  EXPECT_OK(image.Add(MakePiece(PieceType::kAcpi, 0x4000, 1, 1)));
  EXPECT_OK(image.Add(MakePiece(PieceType::kKernelSegment, 0x7000, 1, 1)));
  EXPECT_OK(image.Add(MakePiece(PieceType::kInitrd, 0x1000, 1, 1)));
  EXPECT_OK(image.Add(MakePiece(PieceType::kKernelSegment, 0x5000, 1, 0x1000)));
  std::vector<uint64_t> order;
  for (const Piece& piece : image.pieces()) order.push_back(piece.gpa.value());
  EXPECT_THAT(order, ElementsAre(0x5000, 0x7000, 0x1000, 0x4000));
}

TEST(LaunchImageTest, RefusesBadPieces) {
  LaunchImage image = Image();
  auto add = [&](uint64_t gpa, size_t data, uint64_t memory) {
    return image.Add(MakePiece(PieceType::kInitrd, gpa, data, memory));
  };
  EXPECT_THAT(add(0x1000, 0, 0), StatusIs(kInvalid, HasSubstr("empty")));
  EXPECT_THAT(add(0x1000, 2, 1), StatusIs(kInvalid, HasSubstr("more than")));
  EXPECT_THAT(add(UINT64_MAX, 1, 2), StatusIs(kInvalid, HasSubstr("wraps")));
  EXPECT_THAT(add(0x1fff, 1, 2), StatusIs(kInvalid, HasSubstr("usable")));
  EXPECT_THAT(add(0xfff, 1, 2), StatusIs(kInvalid, HasSubstr("usable")));
  EXPECT_THAT(add(0x2000, 1, 1), StatusIs(kInvalid, HasSubstr("usable")));
  EXPECT_OK(add(0x4000, 0x1000, 0x2000));
  EXPECT_THAT(add(0x5fff, 1, 1),
              StatusIs(kInvalid, HasSubstr("overlaps the initrd of 8192")));
  EXPECT_OK(add(0x6000, 1, 0x2000));
  EXPECT_EQ(image.pieces().size(), 2u);
}

TEST(LaunchImageTest, EntryMustBeKernelCode) {
  LaunchImage image = Image();
  ASSERT_OK(
      image.Add(MakePiece(PieceType::kKernelSegment, 0x4000, 0x10, 0x20)));
  ASSERT_OK(image.Add(MakePiece(PieceType::kBootParams, 0x1000, 0x10, 0x10)));
  GuestAddress params(0x1000);
  EXPECT_OK(image.SetEntry({GuestAddress(0x400f), params}));
  EXPECT_EQ(image.entry().rip, GuestAddress(0x400f));
  EXPECT_EQ(image.entry().rsi, params);
  EXPECT_FALSE(image.SetEntry({GuestAddress(0x4010), params}).ok());
  EXPECT_FALSE(image.SetEntry({GuestAddress(0x3fff), params}).ok());
  EXPECT_FALSE(image.SetEntry({GuestAddress(0x1000), params}).ok());
  EXPECT_FALSE(
      image.SetEntry({GuestAddress(0x4000), GuestAddress(0x1008)}).ok());
}

TEST(LaunchImageTest, FindsTheLowestAndHighestFreePlace) {
  LaunchImage image = Image();
  ASSERT_OK(image.Add(MakePiece(PieceType::kInitrd, 0x4800, 1, 0x2000)));
  GuestRange all = Range(0, UINT64_MAX);
  EXPECT_EQ(image.FindLowest(0x1000, 0x1000, all), GuestAddress(0x1000));
  EXPECT_EQ(image.LargestFree(all), 0x1800u);
  EXPECT_EQ(image.LargestFree(Range(0, 0x1800)), 0x800u);
  EXPECT_EQ(image.LargestFree(Range(0, 0x1000)), 0u);
  EXPECT_EQ(image.FindLowest(0x1800, 0x800, all), GuestAddress(0x6800));
  EXPECT_EQ(image.FindLowest(0x1001, 0x1000, all), std::nullopt);
  EXPECT_EQ(image.FindHighest(0x1000, 0x1000, all), GuestAddress(0x7000));
  EXPECT_EQ(image.FindHighest(0x800, 0x800, Range(0, 0x6fff)),
            GuestAddress(0x4000));
}

TEST(LaunchImageTest, SearchRespectsAlignmentAndWindow) {
  LaunchImage image = Image();
  GuestRange all = Range(0, UINT64_MAX);
  EXPECT_EQ(image.FindHighest(1, 1, all), GuestAddress(0x7fff));
  EXPECT_EQ(image.FindHighest(1, 0x1000, all), GuestAddress(0x7000));
  EXPECT_EQ(image.FindHighest(0x1000, 0x1000, Range(0, 0x7fff)),
            GuestAddress(0x6000));
  EXPECT_EQ(image.FindHighest(0x1000, 0x2000, Range(0, 0x5000)),
            GuestAddress(0x4000));
  EXPECT_EQ(image.FindHighest(0x1000, 0x2000, Range(0, 0x4800)), std::nullopt);
  EXPECT_EQ(image.FindHighest(0x4001, 1, all), std::nullopt);
  EXPECT_EQ(image.FindLowest(0, 1, all), std::nullopt);
  EXPECT_EQ(image.FindLowest(1, 0x1000, Range(0x1001, 0x2000)), std::nullopt);
  EXPECT_EQ(image.FindLowest(1, uint64_t{1} << 63, all), std::nullopt);
}

TEST(LaunchImageTest, EveryTypeHasAName) {
  for (uint32_t type = 1; type <= 7; ++type) {
    EXPECT_NE(PieceTypeName(static_cast<PieceType>(type)), "unknown piece");
  }
}

}  // namespace
}  // namespace cloister::boot
