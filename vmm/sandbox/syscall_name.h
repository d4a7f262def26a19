// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_SANDBOX_SYSCALL_NAME_H_
#define CLOISTER_VMM_SANDBOX_SYSCALL_NAME_H_

namespace cloister::vmm {

// The name of a system call of this architecture: "openat" for 257 on x86-64;
// "unknown" for numbers that libseccomp did not know when this was built.
// Async-signal-safe, which libseccomp's own function is not.
const char* SyscallName(long number);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_SANDBOX_SYSCALL_NAME_H_
