// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_features.h"

#include <algorithm>
#include <initializer_list>

namespace cloister::vcpu {
namespace {

using Leaf = CpuidTable::Leaf;

constexpr uint32_t Bits(std::initializer_list<int> bits) {
  uint32_t mask = 0;
  for (int bit : bits) mask |= uint32_t{1} << bit;
  return mask;
}

// Leaf 1. Hidden: what reports on or steers the host's power, debug store and
// monitor hardware, and what other steps set (HTT, OSXSAVE, APIC modes).
constexpr uint32_t k1EcxMonitor = Bits({3});
constexpr uint32_t k1EcxVmx = Bits({5});
constexpr uint32_t k1EcxPdcm = Bits({15});
constexpr uint32_t k1EcxX2Apic = Bits({21});
constexpr uint32_t k1EcxTscDeadline = Bits({24});
constexpr uint32_t k1EcxHypervisor = Bits({31});
// DTES64, DS-CPL, SMX, EST, TM2, CNXT-ID, SDBG, xTPR, DCA, OSXSAVE.
constexpr uint32_t k1EcxHidden = Bits({2, 4, 6, 7, 8, 10, 11, 14, 18, 27});
// PSN, DS, ACPI, HTT, TM, IA64, PBE.
constexpr uint32_t k1EdxHidden = Bits({18, 21, 22, 28, 29, 30, 31});

// Leaf 7. SGX, RDT-M, MPX, RDT-A, PT | OSPKE, WAITPKG, SHSTK, TME, key locker,
// ENQCMD, SGX-LC, PKS | SGX-KEYS, UINTR, PCONFIG, LBR, IBT, AMX.
constexpr uint32_t k7EbxHidden = Bits({2, 12, 14, 15, 25});
constexpr uint32_t k7EcxHidden = Bits({4, 5, 7, 13, 23, 29, 30, 31});
constexpr uint32_t k7EdxHidden = Bits({1, 5, 18, 19, 20, 22, 24, 25});
// Leaf 7.1: AMX-FP16, HRESET | AMX-COMPLEX, CET-SSS, AVX10.
constexpr uint32_t k71EaxHidden = Bits({21, 22});
constexpr uint32_t k71EdxHidden = Bits({8, 18, 19});

// Leaf 0x80000001 ECX: ExtApicSpace, IBS, SKINIT, WDT, LWP, NodeId, data
// breakpoints, PTSC, MWAITX; SVM; performance counters.
constexpr uint32_t kExt1EcxHidden = Bits({3, 10, 12, 13, 15, 19, 26, 27, 29});
constexpr uint32_t kExt1EcxSvm = Bits({2});
constexpr uint32_t kExt1EcxPmu = Bits({23, 24, 28});
// Leaf 0x80000008 EBX: INVLPGB, RDPRU, MCOMMIT, INT_WBINVD, PPIN, CPPC.
constexpr uint32_t kExt8EbxHidden = Bits({3, 4, 8, 13, 23, 27});

// Leaf 0x40000001 EAX: what KVM does by itself (cpuid.rst): clock, I/O delay,
// async page faults, steal time, PV EOI, unhalt, TLB flush, IPIs, polling,
// yield, stable clock.
constexpr uint32_t kKvmFeatures =
    Bits({0, 1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 24});
constexpr uint32_t kKvmMsiExtDestId = Bits({15});
constexpr uint32_t kKvmMapGpaRange = Bits({16, 17});

bool IsKept(uint32_t function, const CpuidPolicy& policy) {
  switch (function) {
    case 0xa:
    case 0x80000022:
      return policy.pmu;
    case 0x8000000a:
      return policy.nested_virtualization;
    case 0x0:
    case 0x1:
    case 0x2:
    case 0x4:
    case 0x6:
    case 0x7:
    case 0xb:
    case 0xd:
    case 0x1f:
    case 0x40000000:
    case 0x40000001:
    case 0x80000019:
    case 0x8000001a:
    case 0x8000001d:
    case 0x8000001e:
    case 0x80000021:
      return true;
    default:
      return function >= 0x80000000 && function <= 0x80000008;
  }
}

void FilterLeaf1(const CpuidPolicy& policy, Leaf& leaf) {
  leaf.ecx &= ~(k1EcxHidden | k1EcxMonitor | k1EcxX2Apic | k1EcxTscDeadline);
  if (!policy.nested_virtualization) leaf.ecx &= ~k1EcxVmx;
  if (!policy.pmu) leaf.ecx &= ~k1EcxPdcm;
  if (policy.x2apic) leaf.ecx |= k1EcxX2Apic;
  if (policy.tsc_deadline) leaf.ecx |= k1EcxTscDeadline;
  leaf.ecx |= k1EcxHypervisor;
  leaf.edx &= ~k1EdxHidden;
}

void FilterLeaf7(CpuidTable& table) {
  if (Leaf* leaf = table.Find(7)) {
    leaf->ebx &= ~k7EbxHidden;
    leaf->ecx &= ~k7EcxHidden;
    leaf->edx &= ~k7EdxHidden;
  }
  if (Leaf* leaf = table.Find(7, 1)) {
    leaf->eax &= ~k71EaxHidden;
    leaf->edx &= ~k71EdxHidden;
  }
}

void FilterExtended(const CpuidPolicy& policy, CpuidTable& table) {
  if (Leaf* leaf = table.Find(0x80000001)) {
    leaf->ecx &= ~kExt1EcxHidden;
    if (!policy.nested_virtualization) leaf->ecx &= ~kExt1EcxSvm;
    if (!policy.pmu) leaf->ecx &= ~kExt1EcxPmu;
  }
  // Of the power leaf only the invariant TSC concerns a guest.
  if (Leaf* leaf = table.Find(0x80000007)) *leaf = {0, 0, 0, leaf->edx & 0x100};
  if (Leaf* leaf = table.Find(0x80000008)) leaf->ebx &= ~kExt8EbxHidden;
}

}  // namespace

void FilterFeatures(const CpuidPolicy& policy, CpuidTable& table) {
  table.KeepOnly(
      [&policy](uint32_t function) { return IsKept(function, policy); });
  if (Leaf* leaf = table.Find(1)) FilterLeaf1(policy, *leaf);
  // Of the thermal leaf only ARAT, a timer that never stops, holds in a guest.
  if (Leaf* leaf = table.Find(6)) *leaf = {leaf->eax & 0x4, 0, 0, 0};
  FilterLeaf7(table);
  FilterExtended(policy, table);
}

void SetHypervisorLeaves(const CpuidPolicy& policy, CpuidTable& table) {
  uint32_t features = table.Get(0x40000001).eax & kKvmFeatures;
  if (policy.msi_ext_dest_id) features |= kKvmMsiExtDestId;
  if (policy.map_gpa_range) features |= kKvmMapGpaRange;
  features &= ~policy.hidden_kvm_features;
  // "KVMKVMKVM\0\0\0".
  table.Set(0x40000000, 0, {0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d});
  table.Set(0x40000001, 0, {features, 0, 0, 0});
}

}  // namespace cloister::vcpu
