// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_table.h"

#include "cloister/vcpu/cpuid_test_tables.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

TEST(CpuidTableTest, FindsWhatIsThere) {
  CpuidTable table(AmdServer());
  ASSERT_NE(table.Find(0xd, 2), nullptr);
  EXPECT_EQ(table.Find(0xd, 2)->ebx, 0x240u);
  EXPECT_EQ(table.Find(0xd, 3), nullptr);
  EXPECT_EQ(table.Get(0xd, 3).eax, 0u);
  EXPECT_EQ(table.Get(0xb, 1).ebx, 0x40u);
}

TEST(CpuidTableTest, FirstOfTwoEqualEntriesCounts) {
  CpuidTable table({Entry(1, 0, 10, 0, 0, 0), Entry(1, 0, 20, 0, 0, 0)});
  EXPECT_EQ(table.Get(1).eax, 10u);
  EXPECT_EQ(table.Entries().size(), 1u);
}

TEST(CpuidTableTest, ErasesAllIndices) {
  CpuidTable table(AmdServer());
  table.Erase(0xd);
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(table.Find(0xd, i), nullptr);
  EXPECT_NE(table.Find(0xb), nullptr);
  EXPECT_NE(table.Find(0x10), nullptr);
  table.KeepOnly([](uint32_t function) { return function == 0x7; });
  EXPECT_EQ(table.Entries().size(), 2u);
}

TEST(CpuidTableTest, HighestFunctionOfAClass) {
  CpuidTable table(AmdServer());
  EXPECT_EQ(table.HighestFunction(0, 0xffff), 0x10u);
  EXPECT_EQ(table.HighestFunction(0x40000000, 0x4000ffff), 0x40000001u);
  EXPECT_EQ(table.HighestFunction(0x80000000, 0x8000ffff), 0x80000022u);
  EXPECT_EQ(table.HighestFunction(0x60000000, 0x6000ffff), 0x60000000u);
  EXPECT_EQ(CpuidTable().HighestFunction(0, 0xffff), 0u);
}

TEST(CpuidTableTest, Vendors) {
  EXPECT_EQ(CpuidTable(AmdServer()).vendor(), CpuVendor::kAmd);
  EXPECT_EQ(CpuidTable(IntelServer()).vendor(), CpuVendor::kIntel);
  EXPECT_EQ(CpuidTable().vendor(), CpuVendor::kIntel);
}

TEST(CpuidTableTest, EntriesAreWholeAndMarked) {
  CpuidTable table;
  table.Set(0x1, 0, {1, 2, 3, 4});
  table.Set(0x4, 1, {5, 6, 7, 8});
  std::vector<kvm::CpuidEntry> entries = table.Entries();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0], Entry(0x1, 0, 1, 2, 3, 4));
  kvm::CpuidEntry indexed = Entry(0x4, 1, 5, 6, 7, 8);
  indexed.flags = kvm::CpuidEntry::kSignificantIndex;
  EXPECT_EQ(entries[1], indexed);
}

}  // namespace
}  // namespace cloister::vcpu
