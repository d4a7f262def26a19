// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_PROBE_H_
#define CLOISTER_KVM_PROBE_H_

#include <cstdint>
#include <string>

#include "cloister/kvm/system.h"

namespace cloister::kvm {

// What a host's KVM offers, as plain values. "Mask" fields are KVM's bits; 0
// means that KVM does not know the question.
struct CapabilityReport {
  int api_version = 0;
  int max_vcpus = 0;
  int max_vcpu_id = 0;
  int memory_slots = 0;
  uint32_t vm_types_mask = 0;  // 1 << VmType

  bool irqchip = false;
  bool split_irqchip = false;
  bool pit2 = false;
  bool irqfd = false;
  bool irqfd_resample = false;
  bool ioeventfd = false;
  bool signal_msi = false;
  uint32_t x2apic_api_mask = 0;

  bool user_memory2 = false;
  bool readonly_memory = false;
  bool guest_memfd = false;
  // Asked on a VM of the default type: bit 0 MMAP, bit 1 INIT_SHARED.
  uint32_t guest_memfd_flags = 0;
  // Likewise on a sw-protected VM, 0 where that cannot be created.
  uint32_t sw_protected_guest_memfd_flags = 0;
  // Asked on the system: 8 (PRIVATE) where configured.
  uint32_t memory_attributes_mask = 0;
  bool memory_fault_info = false;
  bool pre_fault_memory = false;

  uint32_t exit_hypercall_mask = 0;  // 1 << hypercall number
  bool msr_filter = false;
  uint32_t user_space_msr_mask = 0;
  bool immediate_exit = false;
  uint32_t sync_regs_mask = 0;
  bool tsc_control = false;
  bool vm_tsc_control = false;

  // Whether a VM of the type can be made here; else what KVM said.
  bool default_vm = false;
  std::string default_vm_error;
  bool sw_protected_vm = false;
  std::string sw_protected_vm_error;

  bool map_gpa_range_exits() const { return exit_hypercall_mask & (1u << 12); }
};

// Asks `system` everything, creating and destroying up to two VMs. Never fails:
// what cannot be found out is absent, with a reason where there is a field.
CapabilityReport Probe(const System& system);

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_PROBE_H_
