// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_OFF_H_
#define CLOISTER_CONFIDENTIAL_OFF_H_

#include "absl/status/statusor.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/confidential/guest_ram.h"
#include "cloister/kvm/system.h"

namespace cloister::confidential {

// A VM without private memory: every page is shared, every conversion is
// refused. RAM is a guest_memfd that the host may map (MMAP | INIT_SHARED,
// Linux 6.18) where the VM has it and no huge pages are asked for, else a
// memfd.
absl::StatusOr<BackendVm> CreateOffVm(const kvm::System& system,
                                      const RamOptions& ram);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_OFF_H_
