// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_RUN_COMMAND_H_
#define CLOISTER_CLI_RUN_COMMAND_H_

#include <chrono>

#include "cloister/cli/options.h"

namespace cloister::cli {

// `cloister run`: builds and starts the VM, attaches the console and waits for
// the end. Returns an ExitCode, after one line on stderr for anything that went
// wrong. The EndingSignals (vm_process.h) end the VM; SIGPWR presses its power
// button. `process_start` is where --boot-timer begins. Call it from main()
// before there is any other thread.
int RunCommand(const RunOptions& options,
               std::chrono::steady_clock::time_point process_start);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_RUN_COMMAND_H_
