// SPDX-License-Identifier: Apache-2.0
//
// What CPUID tells each vCPU: a pure function of what the host's KVM supports,
// a policy, and the topology. Leaves: SDM vol. 2A CPUID, APM vol. 3 appendix E;
// 0x4000000x: Linux Documentation/virt/kvm/x86/cpuid.rst.
#ifndef CLOISTER_VCPU_CPUID_H_
#define CLOISTER_VCPU_CPUID_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/kvm/registers.h"
#include "cloister/vcpu/topology.h"

namespace cloister::vcpu {

// What a guest may see beyond the safe default. A feature that the host's KVM
// does not list stays hidden whatever the policy says, but for the two that
// KVM documents as the monitor's to add (TSC deadline, x2APIC).
struct CpuidPolicy {
  // SVM or VMX.
  bool nested_virtualization = false;
  // Performance counters.
  bool pmu = false;
  // XSAVE and everything that needs it (AVX and up). Hidden in any case when
  // the host's leaf 0xD contradicts itself.
  bool xsave = true;
  // The in-kernel local APIC's TSC-deadline timer (TSC_DEADLINE_TIMER
  // capability).
  bool tsc_deadline = false;
  // The in-kernel local APIC's x2APIC mode; needed for APIC ids beyond 254.
  bool x2apic = true;
  // MSIs may carry 15-bit destination ids: KVM_FEATURE_MSI_EXT_DEST_ID. Needs
  // 32-bit x2APIC ids enabled on the VM.
  bool msi_ext_dest_id = false;
  // The software C-bit (ComputeCbit): the guest sees SEV in leaf 0x8000001F and
  // encrypts its page tables with this bit. MAXPHYADDR stays as it is, so that
  // the bit is legal in page tables and CR3.
  std::optional<int> c_bit;
  // The guest reports its conversions by hypercall:
  // KVM_FEATURE_HC_MAP_GPA_RANGE and KVM_FEATURE_MIGRATION_CONTROL. Only where
  // UsesVmmcall() and the VM exits on that hypercall.
  bool map_gpa_range = false;
  // Bits of leaf 0x40000001 EAX to hide.
  uint32_t hidden_kvm_features = 0;
};

// The entries for vCPU `index`, sorted, for kvm::VcpuFd::SetCpuid. `supported`
// is what kvm::System reports as supported.
//
// InvalidArgument if `supported` lacks leaves 0 and 1, `index` is not in the
// topology, the C-bit is not one of MAXPHYADDR's, or the policy asks for what
// cannot work (map_gpa_range without VMMCALL, wide APIC ids without x2APIC).
absl::StatusOr<std::vector<kvm::CpuidEntry>> BuildCpuid(
    absl::Span<const kvm::CpuidEntry> supported, const CpuidPolicy& policy,
    const CpuTopology& topology, uint32_t index);

// The bit that selects the private view of a guest-physical address: the
// smaller of MAXPHYADDR and the host's guest-physical address size (48 if leaf
// 0x80000008 names none), less one. InvalidArgument if the leaf is missing or
// leaves no room above 4 GiB.
absl::StatusOr<int> ComputeCbit(absl::Span<const kvm::CpuidEntry> supported);

// True on hosts (AMD, Hygon) whose guests' hypercall is VMMCALL, the one that
// Linux uses to report conversions.
bool UsesVmmcall(absl::Span<const kvm::CpuidEntry> supported);

// Bits of guest-physical addresses: leaf 0x80000008 EAX[7:0], or 36 without it.
int MaxPhysicalAddressBits(absl::Span<const kvm::CpuidEntry> supported);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_CPUID_H_
