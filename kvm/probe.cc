// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/probe.h"

#include "absl/status/statusor.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/vm.h"
#include "cloister/kvm/vm_type.h"

namespace cloister::kvm {
namespace {

void ProbeNumbers(const System& system, CapabilityReport& report) {
  auto ask = [&](Capability capability) {
    return system.CheckExtension(capability);
  };
  report.api_version = system.api_version();
  report.max_vcpus = system.MaxVcpus();
  report.max_vcpu_id = ask(Capability::kMaxVcpuId);
  report.memory_slots = ask(Capability::kMemorySlots);
  report.vm_types_mask = ask(Capability::kVmTypes);
  report.x2apic_api_mask = ask(Capability::kX2apicApi);
  report.memory_attributes_mask = ask(Capability::kMemoryAttributes);
  report.exit_hypercall_mask = ask(Capability::kExitHypercall);
  report.user_space_msr_mask = ask(Capability::kUserSpaceMsr);
  report.sync_regs_mask = ask(Capability::kSyncRegs);
}

void ProbeFlags(const System& system, CapabilityReport& report) {
  auto has = [&](Capability capability) {
    return system.CheckExtension(capability) > 0;
  };
  report.irqchip = has(Capability::kIrqchip);
  report.split_irqchip = has(Capability::kSplitIrqchip);
  report.pit2 = has(Capability::kPit2);
  report.irqfd = has(Capability::kIrqfd);
  report.irqfd_resample = has(Capability::kIrqfdResample);
  report.ioeventfd = has(Capability::kIoeventfd);
  report.signal_msi = has(Capability::kSignalMsi);
  report.user_memory2 = has(Capability::kUserMemory2);
  report.readonly_memory = has(Capability::kReadonlyMemory);
  report.guest_memfd = has(Capability::kGuestMemfd);
  report.memory_fault_info = has(Capability::kMemoryFaultInfo);
  report.pre_fault_memory = has(Capability::kPreFaultMemory);
  report.msr_filter = has(Capability::kMsrFilter);
  report.immediate_exit = has(Capability::kImmediateExit);
  report.tsc_control = has(Capability::kTscControl);
  report.vm_tsc_control = has(Capability::kVmTscControl);
}

void ProbeVms(const System& system, CapabilityReport& report) {
  absl::StatusOr<Vm> plain = system.CreateVm(VmType::kDefault);
  report.default_vm = plain.ok();
  if (plain.ok()) {
    report.guest_memfd_flags =
        plain->CheckExtension(Capability::kGuestMemfdFlags);
  } else {
    report.default_vm_error = std::string(plain.status().message());
  }
  absl::StatusOr<Vm> guarded = system.CreateVm(VmType::kSwProtected);
  report.sw_protected_vm = guarded.ok();
  if (guarded.ok()) {
    report.sw_protected_guest_memfd_flags =
        guarded->CheckExtension(Capability::kGuestMemfdFlags);
  } else {
    report.sw_protected_vm_error = std::string(guarded.status().message());
  }
}

}  // namespace

CapabilityReport Probe(const System& system) {
  CapabilityReport report;
  ProbeNumbers(system, report);
  ProbeFlags(system, report);
  ProbeVms(system, report);
  return report;
}

}  // namespace cloister::kvm
