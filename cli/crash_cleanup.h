// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_CRASH_CLEANUP_H_
#define CLOISTER_CLI_CRASH_CLEANUP_H_

#include "absl/status/status.h"

namespace cloister::cli {

// Removes the process's Unix sockets from the file system when it ends in a way
// that no destructor sees: a crash, or a system call that a filter refused.

// The real-time signal that asks the main thread to do so: others may not,
// their filters (docs/sandbox.md) have no unlink(2).
int CleanUpSignal();

// Handles CleanUpSignal, and those of SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP,
// SIGABRT and SIGSYS that have their default effect: sockets are removed, then
// the signal has it. Handlers of somebody else (a sanitizer's) stay. Call it on
// the main thread, before there is any other.
absl::Status InstallCrashCleanUp();

// Removes what this process listens on: every Unix socket with a name in the
// file system that it made with listen(2), and the "<name>.lock" of the API's.
// From a signal handler of any thread; async-signal-safe. Elsewhere than on the
// main thread it waits for that one, a few seconds at most. Nothing unless
// InstallCrashCleanUp was called.
void CleanUpAfterCrash();

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CRASH_CLEANUP_H_
