// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_HOST_REPORT_H_
#define CLOISTER_VMM_HOST_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/kvm/probe.h"
#include "cloister/kvm/syscalls.h"

namespace cloister::vmm {

struct BackendReport {
  confidential::BackendKind kind;
  std::string missing;  // empty: it works here
};

// What this host can do, as `cloister doctor` prints it.
struct HostReport {
  // Why there is nothing else here, if /dev/kvm cannot be used.
  absl::Status kvm_error;
  kvm::CapabilityReport kvm;
  std::string cpu_vendor;
  // OK, or why Linux cannot run (ProbeLinux).
  absl::Status linux_guests;
  // The software C-bit's position; nullopt if CPUID leaves no room for one.
  std::optional<int> c_bit;
  // Weakest first.
  std::vector<BackendReport> backends;
};

// Asks /dev/kvm; makes short-lived VMs. Takes up to kLinuxProbeLimit and a bit.
// `kick_signal` as vcpu::RunnerOptions.
HostReport ExamineHost(int kick_signal,
                       kvm::Syscalls& syscalls = kvm::RealSyscalls());

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_HOST_REPORT_H_
