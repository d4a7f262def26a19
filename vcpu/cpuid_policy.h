// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_CPUID_POLICY_H_
#define CLOISTER_VCPU_CPUID_POLICY_H_

#include <cstdint>
#include <optional>

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
  std::optional<int> c_bit = std::nullopt;
  // The guest reports its conversions by hypercall:
  // KVM_FEATURE_HC_MAP_GPA_RANGE and KVM_FEATURE_MIGRATION_CONTROL. Only where
  // UsesVmmcall() and the VM exits on that hypercall.
  bool map_gpa_range = false;
  // Bits of leaf 0x40000001 EAX to hide.
  uint32_t hidden_kvm_features = 0;
};

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_CPUID_POLICY_H_
