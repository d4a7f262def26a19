// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_EMULATED_H_
#define CLOISTER_CONFIDENTIAL_EMULATED_H_

#include "absl/status/statusor.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/confidential/guest_ram.h"
#include "cloister/kvm/system.h"

namespace cloister::confidential {

// A VM of the default type with a software C-bit: view A, at x, is shared
// memory; view B, at x | C, a second mapping that only KVM's slot uses.
//
// It keeps devices honest and nothing else: the private side is ordinary memory
// of this process. Accesses through the wrong view are not noticed, so guests
// must report conversions by hypercall.
absl::StatusOr<BackendVm> CreateEmulatedVm(const kvm::System& system,
                                           const RamOptions& ram, int c_bit);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_EMULATED_H_
