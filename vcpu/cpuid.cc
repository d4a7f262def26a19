// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/vcpu/cpuid_features.h"
#include "cloister/vcpu/cpuid_table.h"
#include "cloister/vcpu/cpuid_topology.h"

namespace cloister::vcpu {
namespace {

constexpr uint32_t kExtendedBase = 0x80000000;
constexpr uint32_t kAddressSizes = 0x80000008;
constexpr uint32_t kMemoryEncryption = 0x8000001f;
// A C-bit at or below this would leave no private view of low memory.
constexpr int kLowestCbit = 33;

absl::Status Validate(const CpuidTable& host, const CpuidPolicy& policy,
                      const CpuTopology& topology, uint32_t index,
                      int address_bits) {
  if (host.Find(0) == nullptr || host.Find(1) == nullptr) {
    return absl::InvalidArgumentError(
        "the host's supported CPUID lacks leaf 0 or 1");
  }
  if (index >= topology.count || topology.threads_per_core == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vCPU ", index, " is not in a topology of ", topology.count));
  }
  if (topology.needs_x2apic_ids() && !policy.x2apic) {
    return absl::InvalidArgumentError(
        absl::StrCat("APIC id ", topology.max_apic_id(), " needs x2APIC"));
  }
  if (policy.map_gpa_range && host.vendor() != CpuVendor::kAmd) {
    return absl::InvalidArgumentError(
        "guests report conversions by VMMCALL, which this host's CPUs lack");
  }
  if (policy.c_bit.has_value() &&
      (*policy.c_bit < kLowestCbit || *policy.c_bit >= address_bits)) {
    return absl::InvalidArgumentError(
        absl::StrCat("C-bit ", *policy.c_bit, " is not in ", kLowestCbit, "..",
                     address_bits - 1, ", the host's physical address bits"));
  }
  return absl::OkStatus();
}

// Leaf 0x8000001F (APM vol. 3 E.4.17): SEV, its page-table bit, and by how much
// that bit shrinks the guest's physical addresses.
void SetSoftwareCbit(std::optional<int> c_bit, CpuidTable& table) {
  table.Erase(kMemoryEncryption);
  if (!c_bit.has_value()) return;
  constexpr uint32_t kSev = 1 << 1;
  constexpr uint32_t kOneBitLess = 1 << 6;
  table.Set(kMemoryEncryption, 0,
            {kSev, static_cast<uint32_t>(*c_bit) | kOneBitLess, 0, 0});
}

// The highest leaf of each class, as the leaves that are there ask for.
void SetMaximumLeaves(CpuidTable& table) {
  table.Find(0)->eax = table.HighestFunction(0, 0xffff);
  CpuidTable::Leaf extended = table.Get(kExtendedBase);
  extended.eax = table.HighestFunction(kExtendedBase, kExtendedBase | 0xffff);
  table.Set(kExtendedBase, 0, extended);
}

}  // namespace

absl::StatusOr<std::vector<kvm::CpuidEntry>> BuildCpuid(
    absl::Span<const kvm::CpuidEntry> supported, const CpuidPolicy& policy,
    const CpuTopology& topology, uint32_t index) {
  CpuidTable table(supported);
  RETURN_IF_ERROR(Validate(table, policy, topology, index,
                           MaxPhysicalAddressBits(supported)));
  FilterFeatures(policy, table);
  FitXsave(policy.xsave, table);
  SetHypervisorLeaves(policy, table);
  SetSoftwareCbit(policy.c_bit, table);
  SetTopologyLeaves(topology, index, table);
  SetMaximumLeaves(table);
  return table.Entries();
}

absl::StatusOr<int> ComputeCbit(absl::Span<const kvm::CpuidEntry> supported) {
  constexpr int kFourLevels = 48;
  const CpuidTable table(supported);
  uint32_t sizes = table.Get(kAddressSizes).eax;
  if (sizes == 0) {
    return absl::InvalidArgumentError(
        "the host's CPUID has no leaf 0x80000008 to place a C-bit by");
  }
  int physical = sizes & 0xff;
  int guest_physical = sizes >> 16 & 0xff;
  if (guest_physical == 0) guest_physical = kFourLevels;
  int c_bit = std::min(physical, guest_physical) - 1;
  // 52 bits is the most that a page-table entry holds.
  if (c_bit < kLowestCbit || physical > 52) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no room for a C-bit: the host has ", physical,
        " physical address bits, of which guests get ", guest_physical));
  }
  return c_bit;
}

bool UsesVmmcall(absl::Span<const kvm::CpuidEntry> supported) {
  return CpuidTable(supported).vendor() == CpuVendor::kAmd;
}

int MaxPhysicalAddressBits(absl::Span<const kvm::CpuidEntry> supported) {
  constexpr int kWithoutLeaf = 36;
  uint32_t bits = CpuidTable(supported).Get(kAddressSizes).eax & 0xff;
  return bits == 0 ? kWithoutLeaf : static_cast<int>(bits);
}

}  // namespace cloister::vcpu
