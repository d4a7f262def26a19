// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/memory_map_svg.h"

#include <string>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMib = 1 << 20;

GuestRange Range(uint64_t start, uint64_t size) {
  return GuestRange::Create(GuestAddress(start), size).value();
}

TEST(MemoryMapSvgTest, NamesEverythingWithItsSize) {
  memory::PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 512 * kMib), PageState::kPrivate));
  ASSERT_OK(states.Set(Range(0, kMib), PageState::kAliased));
  ASSERT_OK(states.Set(Range(64 * kMib, 64 * kMib), PageState::kShared));
  const std::string svg = MapSvg(
      BuildMap(states, {{{"IOAPIC", Range(0xfec00000, 4096)}}}, kSvgCells),
      "a<b & \"c\"");
  EXPECT_THAT(svg, HasSubstr("viewBox=\"0 0 1200 "));
  EXPECT_THAT(svg, HasSubstr("private 447 MiB"));
  EXPECT_THAT(svg, HasSubstr("shared 64 MiB"));
  EXPECT_THAT(svg, HasSubstr("aliased 1 MiB"));
  EXPECT_THAT(svg, HasSubstr("device windows 4 KiB"));
  EXPECT_THAT(svg, HasSubstr("holes "));
  EXPECT_THAT(svg, HasSubstr(">IOAPIC<"));
  EXPECT_THAT(svg, HasSubstr("0xfec00000 - 0xfec00fff"));
  EXPECT_THAT(svg, HasSubstr("a&lt;b &amp; &quot;c&quot;"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(MemoryMapSvgTest, IsBoundedForHostilePatterns) {
  memory::PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 64 * kMib), PageState::kPrivate));
  for (uint64_t page = 0; page < 64 * 256; page += 3) {
    ASSERT_OK(states.Set(Range(page * 4096, 4096), PageState::kShared));
  }
  std::vector<AddressWindow> windows;
  for (uint64_t i = 0; i < 64; ++i) {
    windows.push_back({"w", Range(i * kMib, 4096)});
  }
  EXPECT_LT(MapSvg(BuildMap(states, windows, kSvgCells), "x").size(),
            400u << 10);
}

TEST(MemoryMapSvgTest, EmptyMapIsStillAPicture) {
  memory::PageStateMap states;
  EXPECT_THAT(MapSvg(BuildMap(states, {}, kSvgCells), "empty"),
              HasSubstr("</svg>"));
}

}  // namespace
}  // namespace cloister::api
