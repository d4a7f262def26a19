// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_VM_END_H_
#define CLOISTER_VMM_VM_END_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace cloister::vmm {

// How a VM's run ended.
struct VmEnd {
  enum class Kind {
    kPowerOff,       // the guest switched itself off
    kReset,          // the guest asked for a reset
    kStopped,        // Stop
    kTripleFault,    // the guest crashed
    kNotVerified,    // the launch shim refused what it was given
    kConversion,     // a conversion was denied, or failed beyond undoing
    kInternalError,  // KVM or the monitor cannot go on
  };
  Kind kind = Kind::kStopped;
  // Not OK for the last four: one line that says what happened, and where.
  absl::Status status;
  // The vCPU's registers where they say something, several lines; never those
  // of a confidential guest.
  std::string registers;
};

// "power off", "triple fault", ...
absl::string_view VmEndName(VmEnd::Kind kind);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_VM_END_H_
