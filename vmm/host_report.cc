// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/host_report.h"

#include "cloister/confidential/backend_factory.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/cpuid.h"
#include "cloister/vmm/linux_probe.h"

namespace cloister::vmm {

HostReport ExamineHost(int kick_signal, kvm::Syscalls& syscalls) {
  HostReport report;
  auto system = kvm::System::Open(syscalls);
  if (!system.ok()) {
    report.kvm_error = system.status();
    report.linux_guests = system.status();
    return report;
  }
  auto facts = confidential::CollectHostFacts(*system);
  if (!facts.ok()) {
    report.kvm_error = facts.status();
    report.linux_guests = facts.status();
    return report;
  }
  report.kvm = facts->kvm;
  report.cpu_vendor = facts->vendor;
  report.linux_guests = ProbeLinux(*system, {.kick_signal = kick_signal});
  if (auto cpuid = system->SupportedCpuid(); cpuid.ok()) {
    if (auto bit = vcpu::ComputeCbit(*cpuid); bit.ok()) report.c_bit = *bit;
  }
  for (confidential::BackendKind kind :
       {confidential::BackendKind::kOff, confidential::BackendKind::kEmulated,
        confidential::BackendKind::kSwProtected}) {
    report.backends.push_back({kind, confidential::MissingFor(kind, *facts)});
  }
  return report;
}

}  // namespace cloister::vmm
