// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_LINUX_PROBE_H_
#define CLOISTER_VMM_LINUX_PROBE_H_

#include <chrono>

#include "absl/status/status.h"
#include "cloister/kvm/system.h"

namespace cloister::vmm {

inline constexpr std::chrono::milliseconds kLinuxProbeLimit{200};

// Whether this KVM can run Linux: a tiny guest takes #UD, #PF and #BP through
// an IDT of its own, and then turns a loop a million times, all within `limit`.
// A KVM may answer API version 12 and run port I/O and still not deliver an
// exception, or interpret kernel code at a million instructions a second; no
// Linux finishes booting there.
//
// OK, or one line that says what did not happen. `kick_signal` as
// vcpu::RunnerOptions. Starts a thread and ends it.
absl::Status ProbeLinux(const kvm::System& system, int kick_signal,
                        std::chrono::milliseconds limit = kLinuxProbeLimit);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_LINUX_PROBE_H_
