// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_topology.h"

#include <set>
#include <tuple>

#include "cloister/vcpu/cpuid_test_tables.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

// Takes an APIC id apart as a guest does, with the shifts of leaf 0xB.
std::tuple<uint32_t, uint32_t, uint32_t> Place(const CpuidTable& table) {
  uint32_t id = table.Get(0xb, 0).edx;
  uint32_t core_shift = table.Get(0xb, 0).eax & 0x1f;
  uint32_t socket_shift = table.Get(0xb, 1).eax & 0x1f;
  return {id >> socket_shift, (id & ((1u << socket_shift) - 1)) >> core_shift,
          id & ((1u << core_shift) - 1)};
}

TEST(CpuidTopologyStepTest, GuestFindsEveryPlaceOnce) {
  for (CpuTopology topology :
       {CpuTopology{.count = 1}, CpuTopology{.count = 7},
        CpuTopology{.count = 24, .threads_per_core = 2, .cores_per_socket = 3},
        CpuTopology{.count = 400, .threads_per_core = 2},
        CpuTopology{
            .count = 30, .threads_per_core = 3, .cores_per_socket = 5}}) {
    std::set<std::tuple<uint32_t, uint32_t, uint32_t>> places;
    for (uint32_t i = 0; i < topology.count; ++i) {
      CpuidTable table(IntelServer());
      SetTopologyLeaves(topology, i, table);
      auto place = Place(table);
      EXPECT_EQ(std::get<0>(place), i / topology.threads_per_socket());
      EXPECT_EQ(std::get<2>(place), i % topology.threads_per_core);
      EXPECT_TRUE(places.insert(place).second);
    }
  }
}

// What leaf 0xB, leaf 4 and AMD's leaves say of sharing must name the same
// groups, or Linux builds scheduling domains that contradict each other.
TEST(CpuidTopologyStepTest, LeavesAgree) {
  for (uint32_t threads : {1u, 2u}) {
    for (uint32_t cores : {1u, 2u, 3u, 8u, 100u}) {
      CpuTopology topology{.count = threads * cores * 2,
                           .threads_per_core = threads,
                           .cores_per_socket = cores};
      CpuidTable intel(IntelServer());
      SetTopologyLeaves(topology, 0, intel);
      uint32_t l3 = (intel.Get(4, 3).eax >> 14 & 0xfff) + 1;
      EXPECT_EQ(l3, 1u << intel.Get(0xb, 1).eax);
      uint32_t l1 = (intel.Get(4, 0).eax >> 14 & 0xfff) + 1;
      EXPECT_EQ(l1, 1u << intel.Get(0xb, 0).eax);

      CpuidTable amd(AmdServer());
      SetTopologyLeaves(topology, 0, amd);
      EXPECT_EQ(amd.Get(0x80000008).ecx >> 12 & 0xf, amd.Get(0xb, 1).eax);
      EXPECT_EQ((amd.Get(0x80000008).ecx & 0xff) + 1, amd.Get(0xb, 1).ebx);
      EXPECT_EQ((amd.Get(0x8000001e).ebx >> 8 & 0xff) + 1, amd.Get(0xb, 0).ebx);
      EXPECT_EQ((amd.Get(0x8000001d, 3).eax >> 14 & 0xfff) + 1,
                amd.Get(0xb, 1).ebx);
    }
  }
}

// Half-filled last sockets describe themselves as full ones.
TEST(CpuidTopologyStepTest, UnknownLeavesStay) {
  CpuidTable table(IntelServer());
  SetTopologyLeaves({.count = 3, .cores_per_socket = 2}, 2, table);
  EXPECT_EQ(table.Get(0xb, 1).ebx, 2u);
  EXPECT_EQ(table.Get(0xd).eax, CpuidTable(IntelServer()).Get(0xd).eax);
}

}  // namespace
}  // namespace cloister::vcpu
