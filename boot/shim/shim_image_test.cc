// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/shim_image.h"

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/boot/shim/sha256.h"
#include "gtest/gtest.h"

namespace cloister::shim {
namespace {

TEST(ShimImageTest, IsSmallAndBeginsAsTheLayoutSays) {
  absl::Span<const uint8_t> image = ShimImage();
  ASSERT_GT(image.size(), kDigestSlot + kDigestSize);
  EXPECT_LE(image.size(), kImageMax);
  EXPECT_EQ(image.size() % 8, 0u);
  for (uint64_t entry : {kSharedEntry, kPrivateEntry}) {
    EXPECT_TRUE(image[entry] == 0xeb || image[entry] == 0xe9)
        << "no jump at " << entry;
  }
  for (size_t i = 0; i < kDigestSize; ++i) {
    EXPECT_EQ(image[kDigestSlot + i], 0);
  }
}

// Where each first jump goes: inside the image, behind the slot.
TEST(ShimImageTest, BothEntriesLeadBehindTheSlot) {
  const absl::Span<const uint8_t> image = ShimImage();
  uint64_t targets[2];
  int i = 0;
  for (uint64_t entry : {kSharedEntry, kPrivateEntry}) {
    int64_t target = 0;
    if (image[entry] == 0xeb) {
      target = static_cast<int64_t>(entry) + 2 +
               static_cast<int8_t>(image[entry + 1]);
    } else {
      uint32_t distance = 0;
      for (int byte = 4; byte > 0; --byte) {
        distance = distance << 8 | image[entry + byte];
      }
      target = static_cast<int64_t>(entry) + 5 + static_cast<int32_t>(distance);
    }
    EXPECT_GE(target, static_cast<int64_t>(kDigestSlot + kDigestSize));
    ASSERT_LT(target, static_cast<int64_t>(image.size()));
    EXPECT_NE(image[target], 0) << "no code at " << target;
    targets[i++] = target;
  }
  EXPECT_NE(targets[0], targets[1]);
}

TEST(ShimImageTest, ItIsOneForTheWholeProgram) {
  EXPECT_EQ(ShimImage().data(), ShimImage().data());
}

}  // namespace
}  // namespace cloister::shim
