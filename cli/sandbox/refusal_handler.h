// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SANDBOX_REFUSAL_HANDLER_H_
#define CLOISTER_CLI_SANDBOX_REFUSAL_HANDLER_H_

#include "absl/status/status.h"

namespace cloister::cli {

// Handles SIGSYS, for the whole process: a system call that a filter of
// vmm/sandbox refused is named on stderr, with the kind of thread and its first
// arguments, and the process ends with kExitSeccomp. A SIGSYS of another origin
// has its usual effect. The handler has no state and is async-signal-safe; if
// RawMode is active its handler restores the terminal and calls this one.
absl::Status InstallRefusalHandler();

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SANDBOX_REFUSAL_HANDLER_H_
