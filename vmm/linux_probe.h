// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_LINUX_PROBE_H_
#define CLOISTER_VMM_LINUX_PROBE_H_

#include <chrono>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cloister/kvm/system.h"

namespace cloister::vmm {

inline constexpr std::chrono::milliseconds kLinuxProbeLimit{200};

struct LinuxProbeOptions {
  // As vcpu::RunnerOptions.
  int kick_signal = 0;
  // For all of the guest's reports.
  std::chrono::milliseconds limit = kLinuxProbeLimit;
  // For KVM_RUN to return after a signal.
  std::chrono::milliseconds stop_limit{2000};
  // Runs in place of the probe's own guest, in 64-bit mode with its tables and
  // its IDT; at most 256 bytes. For tests.
  absl::Span<const uint8_t> guest_code = {};
};

// Whether this KVM can run Linux: a tiny guest takes #UD, #PF and #BP through
// an IDT of its own, and then turns a loop a million times, all within `limit`.
// A KVM may answer API version 12 and run port I/O and still not deliver an
// exception, or interpret kernel code at a million instructions a second; no
// Linux finishes booting there.
//
// OK, or one line that says what did not happen. Returns within both limits and
// what it takes to make a VM: a guest that KVM_RUN does not return from is left
// behind with its thread until the process ends. InvalidArgument if the guest
// code is too long.
absl::Status ProbeLinux(const kvm::System& system,
                        const LinuxProbeOptions& options);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_LINUX_PROBE_H_
