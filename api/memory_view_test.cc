// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/memory_view.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using memory::PageStateMap;

constexpr uint64_t kMib = 1 << 20;

GuestRange Range(uint64_t start, uint64_t size) {
  return GuestRange::Create(GuestAddress(start), size).value();
}

TEST(MemoryViewTest, AttributesAreRunsInHexadecimal) {
  PageStateMap states;
  ASSERT_OK(states.Set(Range(0, kMib), PageState::kAliased));
  ASSERT_OK(states.Set(Range(kMib, kMib), PageState::kPrivate));
  ASSERT_OK(states.Set(Range(kMib + 4096, 8192), PageState::kShared));
  const Json json = AttributesJson(states, Range(4096, 2 * kMib));
  ASSERT_EQ(json["ranges"].size(), 5u);
  EXPECT_EQ(
      json["ranges"][0],
      Json({{"gpa", "0x1000"}, {"len", "0xff000"}, {"state", "aliased"}}));
  EXPECT_EQ(
      json["ranges"][2],
      Json({{"gpa", "0x101000"}, {"len", "0x2000"}, {"state", "shared"}}));
  EXPECT_EQ(json["ranges"][4]["state"], "not-ram");
  EXPECT_FALSE(json.contains("next"));
  EXPECT_EQ(json["generation"], 3u);
}

TEST(MemoryViewTest, AttributesStopAtTheLimitAndSayWhereToGoOn) {
  PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 16 * kMib), PageState::kPrivate));
  for (uint64_t page = 0; page < 4096; page += 2) {
    ASSERT_OK(states.Set(Range(page * 4096, 4096), PageState::kShared));
  }
  uint64_t at = 0;
  size_t ranges = 0, asked = 0;
  for (bool more = true; more; ++asked) {
    const Json json = AttributesJson(states, Range(at, 16 * kMib - at));
    ASSERT_LE(json["ranges"].size(), kMaxAttributeRanges);
    ranges += json["ranges"].size();
    more = json.contains("next");
    if (more) at = std::stoull(json["next"].get<std::string>(), nullptr, 16);
  }
  EXPECT_EQ(ranges, 4096u);
  EXPECT_EQ(asked, 4u);
  // Exactly the limit has no next.
  EXPECT_FALSE(AttributesJson(states, Range(0, 1024 * 4096)).contains("next"));
  EXPECT_TRUE(AttributesJson(states, Range(0, 1025 * 4096)).contains("next"));
}

TEST(MemoryViewTest, MapHasRamWindowsAndHoles) {
  PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 64 * kMib), PageState::kPrivate));
  ASSERT_OK(states.Set(Range(0, kMib), PageState::kAliased));
  ASSERT_OK(states.Set(Range(64 * kMib, 2 * kMib), PageState::kShared));
  const std::vector<AddressWindow> windows = {
      {"IOAPIC", Range(0xfec00000, 4096)},
      {"exchange window", Range(64 * kMib, 2 * kMib)}};
  const std::vector<MapSegment> map = BuildMap(states, windows, 128);
  ASSERT_EQ(map.size(), 4u);
  EXPECT_EQ(map[0].name, "RAM");
  EXPECT_EQ(map[0].cells.size(), 64u);
  EXPECT_EQ(map[0].cell_bytes, kMib);
  EXPECT_EQ(map[0].cells[0][static_cast<size_t>(PageState::kAliased)], kMib);
  EXPECT_EQ(map[1].name, "exchange window");
  EXPECT_EQ(map[1].kind, MapSegment::Kind::kRam);
  EXPECT_EQ(map[2].kind, MapSegment::Kind::kHole);
  EXPECT_EQ(map[3].name, "IOAPIC");
  EXPECT_EQ(map[3].kind, MapSegment::Kind::kWindow);
  const Json json = MapJson(map);
  EXPECT_EQ(json["bytes"]["private"], 63 * kMib);
  EXPECT_EQ(json["bytes"]["aliased"], kMib);
  EXPECT_EQ(json["bytes"]["shared"], 2 * kMib);
  EXPECT_EQ(json["bytes"]["windows"], 4096u);
  EXPECT_EQ(json["bytes"]["holes"], 0xfec00000 - 66 * kMib);
}

TEST(MemoryViewTest, MapIsBoundedWhateverTheGuestDoes) {
  PageStateMap states;
  ASSERT_OK(states.Set(Range(0, 64 * kMib), PageState::kPrivate));
  for (uint64_t page = 0; page < 64 * 256; page += 2) {
    ASSERT_OK(states.Set(Range(page * 4096, 4096), PageState::kShared));
  }
  const std::vector<MapSegment> map = BuildMap(states, {}, 64);
  ASSERT_EQ(map.size(), 1u);
  ASSERT_EQ(map[0].cells.size(), 64u);
  for (const auto& cell : map[0].cells) {
    EXPECT_EQ(cell[static_cast<size_t>(PageState::kPrivate)], kMib / 2);
    EXPECT_EQ(cell[static_cast<size_t>(PageState::kShared)], kMib / 2);
  }
}

TEST(MemoryViewTest, CellsCoverEveryPageOnce) {
  for (uint64_t pages : {1, 63, 64, 65, 1000}) {
    PageStateMap states;
    ASSERT_OK(states.Set(Range(4096, pages * 4096), PageState::kPrivate));
    const std::vector<MapSegment> map = BuildMap(states, {}, 64);
    uint64_t sum = 0;
    for (const MapSegment& segment : map) {
      EXPECT_LE(segment.cells.size(), 64u);
      for (const auto& cell : segment.cells) {
        for (uint64_t bytes : cell) sum += bytes;
      }
    }
    EXPECT_EQ(sum, pages * 4096) << pages;
  }
}

TEST(MemoryViewTest, ConversionsHaveEveryCounter) {
  memory::ConversionStats stats;
  stats.to_shared[0] = {3, 12288};
  stats.failed = 2;
  stats.rollbacks_by_listener["vfio"] = 1;
  stats.latency[0] = 5;
  stats.latency[11] = 7;
  const Json json = ConversionsJson(stats);
  EXPECT_EQ(json["to_shared"]["explicit"],
            Json({{"requests", 3u}, {"bytes", 12288u}}));
  EXPECT_EQ(json["counters"]["failed"], 2u);
  EXPECT_EQ(json["rollbacks_by_listener"]["vfio"], 1u);
  EXPECT_EQ(json["latency_ns"], Json({{{"from", 0u}, {"count", 5u}},
                                      {{"from", 2048u}, {"count", 7u}}}));
}

}  // namespace
}  // namespace cloister::api
