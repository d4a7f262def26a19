// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/guest_ram.h"

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using ::testing::ElementsAre;

GuestRange Range(uint64_t start, uint64_t size) {
  return *GuestRange::Create(GuestAddress(start), size);
}

TEST(GuestRamTest, CutsTheFirstRangeAtTheAliasedEnd) {
  RamOptions options;
  options.ram = {Range(0, 64 << 20), Range(uint64_t{4} << 30, 4096)};
  options.aliased_end = 1 << 20;
  ASSERT_OK_AND_ASSIGN(auto cut, CutAtAliasedEnd(options));
  EXPECT_THAT(cut, ElementsAre(Range(0, 1 << 20), Range(1 << 20, 63 << 20),
                               Range(uint64_t{4} << 30, 4096)));
}

TEST(GuestRamTest, LeavesEverythingWholeWithoutAnAlias) {
  RamOptions options;
  options.ram = {Range(0x1000, 4096)};
  ASSERT_OK_AND_ASSIGN(auto cut, CutAtAliasedEnd(options));
  EXPECT_THAT(cut, ElementsAre(Range(0x1000, 4096)));
}

TEST(GuestRamTest, RefusesAnAliasThatRamDoesNotCover) {
  RamOptions options;
  options.aliased_end = 1 << 20;
  EXPECT_FALSE(CutAtAliasedEnd(options).ok());
  options.ram = {Range(0x1000, 64 << 20)};
  EXPECT_FALSE(CutAtAliasedEnd(options).ok());
  options.ram = {Range(0, 1 << 20)};
  EXPECT_FALSE(CutAtAliasedEnd(options).ok());
  options.ram = {Range(0, 64 << 20)};
  options.aliased_end = 1000;
  EXPECT_FALSE(CutAtAliasedEnd(options).ok());
}

TEST(GuestRamTest, SharedRamHasTheRangesAndReadsAsZeroes) {
  ASSERT_OK_AND_ASSIGN(
      auto memory, CreateSharedRam({Range(0, 4096), Range(0x10000, 8192)}, {}));
  ASSERT_EQ(memory->regions().size(), 2u);
  EXPECT_EQ(memory->regions()[1].range(), Range(0x10000, 8192));
  uint8_t byte = 1;
  ASSERT_OK(memory->Read(GuestAddress(0x11fff), absl::MakeSpan(&byte, 1)));
  EXPECT_EQ(byte, 0);
}

}  // namespace
}  // namespace cloister::confidential
