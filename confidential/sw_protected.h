// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_SW_PROTECTED_H_
#define CLOISTER_CONFIDENTIAL_SW_PROTECTED_H_

#include "absl/status/statusor.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/confidential/guest_ram.h"
#include "cloister/kvm/system.h"

namespace cloister::confidential {

// A KVM_X86_SW_PROTECTED_VM with a software C-bit: view A, at x, is shared
// memory; view B, at x | C, is guest_memfd, which this process cannot read.
//
// A private page carries the PRIVATE attribute in view A, so that an access
// through A exits and can become a conversion. View B needs attributes only
// where guest_memfd cannot be mapped (before Linux 6.18).
// Protects from bugs, core files and process_vm_readv(2); from nothing that
// runs code in the monitor or in the host's kernel. No integrity. Linux calls
// this VM type a testing vehicle (6.8).
absl::StatusOr<BackendVm> CreateSwProtectedVm(const kvm::System& system,
                                              const RamOptions& ram, int c_bit);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_SW_PROTECTED_H_
