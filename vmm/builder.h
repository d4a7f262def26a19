// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_BUILDER_H_
#define CLOISTER_VMM_BUILDER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "cloister/kvm/syscalls.h"
#include "cloister/vmm/config.h"
#include "cloister/vmm/micro_vm.h"

namespace cloister::vmm {

// Puts a VM together, ready to start: opens /dev/kvm, chooses the backend,
// loads the kernel, makes memory, devices and vCPUs. Blocks on file I/O and
// decompression. `syscalls` must outlive the VM.
//
// Errors are one line that names the option, file or capability; nothing is
// left behind.
//
// Whoever embeds a confidential guest must see to it that its process cannot be
// dumped or traced (PR_SET_DUMPABLE 0, RLIMIT_CORE 0), as `cloister run` does,
// before it builds the first one: the libraries leave settings of the whole
// process alone. Guest memory itself is kept out of core files (MADV_DONTDUMP)
// in any case, but copies of shared pages and device state are not.
absl::StatusOr<std::unique_ptr<MicroVm>> BuildVm(
    const VmConfig& config, const VmHooks& hooks,
    kvm::Syscalls& syscalls = kvm::RealSyscalls());

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_BUILDER_H_
