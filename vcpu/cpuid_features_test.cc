// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_features.h"

#include "cloister/vcpu/cpuid_test_tables.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

// A step may take away, but give only what KVM leaves to the monitor.
TEST(CpuidFeaturesTest, FilteringOnlyTakesAway) {
  for (const auto& entries : {AmdServer(), IntelServer(), SoftwareKvm()}) {
    const CpuidTable host(entries);
    CpuidTable guest = host;
    FilterFeatures(CpuidPolicy(), guest);
    constexpr uint32_t kGiven = 1u << 31 | 1 << 21;  // Hypervisor, x2APIC.
    for (const kvm::CpuidEntry& entry : guest.Entries()) {
      if (entry.function == 0 || entry.function == 0x80000000) continue;
      CpuidTable::Leaf leaf = host.Get(entry.function, entry.index);
      uint32_t given = entry.function == 1 ? kGiven : 0;
      EXPECT_EQ(entry.eax & ~leaf.eax, 0u) << std::hex << entry.function;
      EXPECT_EQ(entry.ebx & ~leaf.ebx, 0u) << std::hex << entry.function;
      EXPECT_EQ(entry.ecx & ~leaf.ecx & ~given, 0u)
          << std::hex << entry.function;
      EXPECT_EQ(entry.edx & ~leaf.edx, 0u) << std::hex << entry.function;
    }
  }
}

// A host of the future whose every bit is set: only known bits pass where an
// unknown one could harm.
TEST(CpuidFeaturesTest, EveryBitSet) {
  CpuidTable table(AmdServer());
  for (uint32_t function : {0x1u, 0x6u, 0x7u, 0x40000001u, 0x80000007u}) {
    table.Set(function, 0, {~0u, ~0u, ~0u, ~0u});
  }
  table.Set(0x99, 0, {1, 1, 1, 1});
  FilterFeatures(CpuidPolicy(), table);
  SetHypervisorLeaves(CpuidPolicy(), table);
  EXPECT_EQ(table.Get(0x6).eax, 4u);
  EXPECT_EQ(table.Get(0x6).ecx, 0u);
  EXPECT_EQ(table.Get(0x40000001).eax, 0x01007efbu);
  EXPECT_EQ(table.Get(0x40000001).edx, 0u);
  EXPECT_EQ(table.Get(0x80000007).edx, 0x100u);
  EXPECT_EQ(table.Find(0x99), nullptr);
  EXPECT_EQ(table.Get(0x1).ecx & (1 << 3 | 1 << 5 | 1 << 27), 0u);
  EXPECT_EQ(table.Get(0x7).ebx & (1 << 2 | 1 << 14 | 1 << 25), 0u);
}

TEST(CpuidFeaturesTest, XsaveWithoutExtensions) {
  // The oldest XSAVE: x87 and SSE alone.
  CpuidTable table(
      {Entry(1, 0, 0, 0, 1 << 26 | 1 << 28, 0), Entry(0xd, 0, 3, 576, 576, 0)});
  FitXsave(true, table);
  EXPECT_EQ(table.Get(1).ecx, 1u << 26) << "AVX has no component";
  EXPECT_EQ(table.Get(0xd).eax, 3u);
  EXPECT_EQ(table.Get(0xd).ebx, 576u);
  EXPECT_EQ(table.Get(0xd).ecx, 576u);
  EXPECT_EQ(table.Find(0xd, 2), nullptr);
}

TEST(CpuidFeaturesTest, XsaveWithoutSseStateIsNone) {
  CpuidTable table(
      {Entry(1, 0, 0, 0, 1 << 26, 0), Entry(0xd, 0, 1, 576, 576, 0)});
  FitXsave(true, table);
  EXPECT_EQ(table.Get(1).ecx, 0u);
  EXPECT_EQ(table.Find(0xd), nullptr);
}

}  // namespace
}  // namespace cloister::vcpu
