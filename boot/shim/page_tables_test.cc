// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/page_tables.h"

#include <optional>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::shim {
namespace {

constexpr uint64_t kAt = 0x7700000;
constexpr uint64_t kC = uint64_t{1} << 47;
constexpr uint64_t kAddressMask = 0x000ffffffffff000;

std::vector<uint64_t> Build(uint64_t table_bits, uint64_t identity_bits,
                            uint64_t window_bits) {
  std::vector<uint64_t> tables(kTablesSize / 8);
  BuildPageTables(tables.data(), kAt, table_bits, identity_bits, window_bits);
  return tables;
}

// Walks as the CPU does; nullopt where an entry is not present or a table lies
// outside `tables` (seen with `table_bits`).
std::optional<uint64_t> Walk(const std::vector<uint64_t>& tables,
                             uint64_t table_bits, uint64_t address) {
  uint64_t table = kAt | table_bits;
  for (int shift : {39, 30, 21}) {
    uint64_t offset = table - (kAt | table_bits);
    if (table < (kAt | table_bits) || offset >= kTablesSize) return {};
    uint64_t entry = tables[offset / 8 + ((address >> shift) & 511)];
    if ((entry & 1) == 0) return {};
    // Writable, accessed; a walk must not want to set anything.
    EXPECT_EQ(entry & 0x22, 0x22u);
    if ((entry & 0x80) != 0) {
      EXPECT_EQ(shift, 21);
      EXPECT_EQ(entry & 0x40, 0x40u) << "dirty";
      uint64_t mask = (uint64_t{1} << shift) - 1;
      return (entry & kAddressMask & ~mask) | (address & mask);
    }
    table = entry & kAddressMask;
  }
  return {};
}

const uint64_t kProbes[] = {0,           0xfff,      0x100000,   0x1fffff,
                            0x200000,    0x7700123,  0x3fffffff, 0x40000000,
                            0xbfe00000u, 0xffffffffu};

TEST(PageTablesTest, SharedStartSeesViewAAndTheWindowViewB) {
  std::vector<uint64_t> tables = Build(0, 0, kC);
  for (uint64_t x : kProbes) {
    EXPECT_EQ(Walk(tables, 0, x), x);
    EXPECT_EQ(Walk(tables, 0, kWindow + x), x | kC);
  }
}

TEST(PageTablesTest, PrivateStartSeesViewBAndTheWindowViewA) {
  std::vector<uint64_t> tables = Build(kC, kC, 0);
  for (uint64_t x : kProbes) {
    EXPECT_EQ(Walk(tables, kC, x), x | kC);
    EXPECT_EQ(Walk(tables, kC, kWindow + x), x);
  }
}

TEST(PageTablesTest, NothingElseIsMapped) {
  std::vector<uint64_t> tables = Build(kC, kC, 0);
  for (uint64_t x : {kHighest, kHighest + 0x1000, kWindow - 1,
                     kWindow + kHighest, 2 * kWindow, ~uint64_t{0}}) {
    EXPECT_EQ(Walk(tables, kC, x), std::nullopt) << std::hex << x;
  }
  // Without its one PML4 entry the window is gone.
  tables[kWindowIndex] = 0;
  for (uint64_t x : kProbes) {
    EXPECT_EQ(Walk(tables, kC, kWindow + x), std::nullopt);
    EXPECT_EQ(Walk(tables, kC, x), x | kC);
  }
}

}  // namespace
}  // namespace cloister::shim
