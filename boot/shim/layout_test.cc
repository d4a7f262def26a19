// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/layout.h"

#include <cstdint>
#include <set>
#include <string>

#include "absl/numeric/bits.h"
#include "gtest/gtest.h"

namespace cloister::shim {
namespace {

TEST(ShimStatusTest, OneFlippedBitNeverSaysVerified) {
  const auto verified = static_cast<unsigned>(Status::kVerified);
  int values = 0;
  for (unsigned value = 0; value < 256; ++value) {
    auto status = static_cast<Status>(value);
    if (RefusalText(status) == nullptr && status != Status::kPrivate) continue;
    ++values;
    EXPECT_GE(absl::popcount(value ^ verified), 3) << value;
  }
  EXPECT_EQ(values, 9);  // Eight refusals and the report of progress.
}

TEST(ShimStatusTest, EveryRefusalHasItsOwnWords) {
  std::set<std::string> words;
  int refusals = 0;
  for (int value = 0; value < 256; ++value) {
    const char* text = RefusalText(static_cast<Status>(value));
    if (text == nullptr) continue;
    ++refusals;
    EXPECT_TRUE(words.insert(text).second) << text;
  }
  EXPECT_EQ(refusals, 8);
  EXPECT_EQ(RefusalText(Status::kVerified), nullptr);
  EXPECT_EQ(RefusalText(Status::kPrivate), nullptr);
  EXPECT_EQ(RefusalText(static_cast<Status>(0)), nullptr);
}

TEST(ShimLayoutTest, PartsFollowOneAnotherInWholePages) {
  const uint64_t ends[] = {kImageMax, kTablesOffset + kTablesSize,
                           kStackOffset + kStackSize,
                           kHandoverOffset + kHandoverMax};
  const uint64_t starts[] = {0, kTablesOffset, kStackOffset, kHandoverOffset};
  uint64_t previous = 0;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(starts[i], previous) << i;
    EXPECT_EQ(starts[i] % 4096, 0u) << i;
    EXPECT_GT(ends[i], starts[i]) << i;
    previous = ends[i];
  }
  EXPECT_EQ(kShimSize, previous);
  EXPECT_LE(kLowest + kShimSize, kHighest);
}

// Entry, entry, slot: none reaches into the next, and a stack is aligned.
TEST(ShimLayoutTest, TheImageBeginsWithItsEntriesAndTheSlot) {
  EXPECT_EQ(kSharedEntry, 0u);
  EXPECT_GE(kPrivateEntry, kSharedEntry + 5);  // a near jump
  EXPECT_GE(kDigestSlot, kPrivateEntry + 5);
  EXPECT_EQ(kDigestSlot % 8, 0u);
  EXPECT_EQ((kStackOffset + kStackSize) % 16, 0u);
}

// The window is out of reach of identity mappings, and canonical.
TEST(ShimLayoutTest, TheWindowIsApartFromTheOtherView) {
  EXPECT_GE(kWindow, kHighest);
  EXPECT_LT(kWindow + kHighest, uint64_t{1} << 47);
  EXPECT_EQ(kWindow % (uint64_t{1} << 39), 0u) << "a table of its own";
}

}  // namespace
}  // namespace cloister::shim
