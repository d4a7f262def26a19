// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_topology.h"

#include <algorithm>

namespace cloister::vcpu {
namespace {

using Leaf = CpuidTable::Leaf;

constexpr uint32_t kTopologyExtensions = 1 << 22;  // 0x80000001 ECX.

// `value` in bits [high:low] of `reg`, or the most that fits there.
uint32_t WithField(uint32_t reg, int high, int low, uint32_t value) {
  uint32_t max = (uint64_t{1} << (high - low + 1)) - 1;
  return (reg & ~(max << low)) | std::min(value, max) << low;
}

// Leaf 1: the low byte of the APIC id, how many ids (Intel) or threads (AMD)
// the socket has, and HTT if that is more than one.
void SetLeaf1(const CpuTopology& topology, uint32_t apic_id, bool amd,
              Leaf& leaf) {
  uint32_t threads = topology.threads_per_socket();
  uint32_t logical = amd ? threads : uint32_t{1} << topology.socket_shift();
  leaf.ebx = (leaf.ebx & 0x00ffffff) | apic_id << 24;
  leaf.ebx = WithField(leaf.ebx, 23, 16, logical);
  leaf.edx = WithField(leaf.edx, 28, 28, threads > 1);
}

// Leaf 4: caches below level 3 belong to a core, the others to a socket.
void SetIntelCaches(const CpuTopology& topology, CpuidTable& table) {
  uint32_t core_ids = uint32_t{1} << topology.core_shift();
  uint32_t socket_ids = uint32_t{1} << topology.socket_shift();
  for (uint32_t i = 0; i < 32; ++i) {
    Leaf* leaf = table.Find(4, i);
    if (leaf == nullptr || (leaf->eax & 0x1f) == 0) return;
    uint32_t level = leaf->eax >> 5 & 7;
    uint32_t sharing = level < 3 ? core_ids : socket_ids;
    leaf->eax = WithField(leaf->eax, 25, 14, sharing - 1);
    leaf->eax = WithField(leaf->eax, 31, 26, socket_ids / core_ids - 1);
  }
}

// Leaf 0xB and its twin 0x1F: a thread level and a core level, each with the
// whole x2APIC id, then the level that says there are no more.
void SetExtendedTopology(const CpuTopology& topology, uint32_t apic_id,
                         uint32_t function, CpuidTable& table) {
  constexpr uint32_t kSmt = 1 << 8;
  constexpr uint32_t kCore = 2 << 8;
  table.Erase(function);
  table.Set(
      function, 0,
      {topology.core_shift(), topology.threads_per_core, kSmt | 0, apic_id});
  table.Set(function, 1,
            {topology.socket_shift(),
             std::min(topology.threads_per_socket(), uint32_t{0xffff}),
             kCore | 1, apic_id});
  table.Set(function, 2, {0, 0, 2, apic_id});
}

void SetAmdCaches(const CpuTopology& topology, CpuidTable& table) {
  for (uint32_t i = 0; i < 32; ++i) {
    Leaf* leaf = table.Find(0x8000001d, i);
    if (leaf == nullptr || (leaf->eax & 0x1f) == 0) return;
    uint32_t level = leaf->eax >> 5 & 7;
    uint32_t sharing =
        level < 3 ? topology.threads_per_core : topology.threads_per_socket();
    leaf->eax = WithField(leaf->eax, 25, 14, sharing - 1);
  }
}

void SetAmdLeaves(const CpuTopology& topology, uint32_t index, uint32_t apic_id,
                  CpuidTable& table) {
  uint32_t threads = topology.threads_per_socket();
  if (Leaf* leaf = table.Find(0x80000008)) {
    leaf->ecx = WithField(leaf->ecx, 7, 0, threads - 1);
    leaf->ecx = WithField(leaf->ecx, 15, 12, topology.socket_shift());
  }
  Leaf* features = table.Find(0x80000001);
  if (features == nullptr) return;
  // CmpLegacy: the socket has several cores.
  features->ecx = WithField(features->ecx, 1, 1, threads > 1);
  if ((features->ecx & kTopologyExtensions) == 0) {
    table.Erase(0x8000001d);
    table.Erase(0x8000001e);
    return;
  }
  SetAmdCaches(topology, table);
  uint32_t core = index % threads / topology.threads_per_core;
  uint32_t node = index / threads;
  table.Set(0x8000001e, 0,
            {apic_id,
             (core & 0xff) |
                 std::min(topology.threads_per_core - 1, uint32_t{0xff}) << 8,
             node & 0xff, 0});
}

}  // namespace

void SetTopologyLeaves(const CpuTopology& topology, uint32_t index,
                       CpuidTable& table) {
  uint32_t apic_id = topology.ApicId(index);
  bool amd = table.vendor() == CpuVendor::kAmd;
  if (Leaf* leaf = table.Find(1)) SetLeaf1(topology, apic_id, amd, *leaf);
  SetIntelCaches(topology, table);
  SetExtendedTopology(topology, apic_id, 0xb, table);
  if (table.Get(0).eax >= 0x1f) {
    SetExtendedTopology(topology, apic_id, 0x1f, table);
  } else {
    table.Erase(0x1f);
  }
  if (amd) {
    SetAmdLeaves(topology, index, apic_id, table);
  } else {
    table.Erase(0x8000001d);
    table.Erase(0x8000001e);
  }
}

}  // namespace cloister::vcpu
