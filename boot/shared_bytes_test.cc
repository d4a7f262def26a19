// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shared_bytes.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::boot {
namespace {

using ::testing::ElementsAre;

TEST(SharedBytesTest, SlicesShareOwnership) {
  std::optional<SharedBytes> slice;
  {
    SharedBytes bytes(std::vector<uint8_t>{1, 2, 3});
    slice = bytes.Slice(1, 2);
    EXPECT_EQ(slice->data(), bytes.data() + 1) << "a copy";
  }
  ASSERT_TRUE(slice.has_value());
  EXPECT_THAT(slice->span(), ElementsAre(2, 3));
}

TEST(SharedBytesTest, SlicesLieInside) {
  const SharedBytes bytes(std::vector<uint8_t>{1, 2, 3});
  EXPECT_EQ(bytes.Slice(1, 3), std::nullopt);
  EXPECT_EQ(bytes.Slice(4, 0), std::nullopt);
  EXPECT_EQ(bytes.Slice(1, UINT64_MAX), std::nullopt);
  EXPECT_EQ(bytes.Slice(UINT64_MAX, 1), std::nullopt);
  ASSERT_TRUE(bytes.Slice(3, 0).has_value());
  EXPECT_TRUE(bytes.Slice(3, 0)->empty());
  // A slice of a slice counts from the slice.
  EXPECT_THAT(bytes.Slice(1, 2)->Slice(1, 1)->span(), ElementsAre(3));
  EXPECT_EQ(bytes.Slice(1, 1)->Slice(0, 2), std::nullopt);
}

TEST(SharedBytesTest, AnyOwnerIsKeptForAsLongAsItIsNeeded) {
  auto owner = std::make_shared<std::vector<uint8_t>>(4, 7);
  std::weak_ptr<std::vector<uint8_t>> watch = owner;
  const auto span = absl::MakeConstSpan(*owner);
  std::optional<SharedBytes> bytes(std::in_place, std::move(owner), span);
  SharedBytes copy = *bytes;
  bytes.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_THAT(copy.span(), ElementsAre(7, 7, 7, 7));
  copy = SharedBytes();
  EXPECT_TRUE(watch.expired());
  EXPECT_TRUE(copy.empty());
}

}  // namespace
}  // namespace cloister::boot
