// SPDX-License-Identifier: Apache-2.0
//
// What CPUID tells each vCPU: a pure function of what the host's KVM supports,
// a policy, and the topology. Leaves: SDM vol. 2A CPUID, APM vol. 3 appendix E;
// 0x4000000x: Linux Documentation/virt/kvm/x86/cpuid.rst.
#ifndef CLOISTER_VCPU_CPUID_H_
#define CLOISTER_VCPU_CPUID_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/kvm/registers.h"
#include "cloister/vcpu/cpuid_policy.h"
#include "cloister/vcpu/topology.h"

namespace cloister::vcpu {

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
