// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SERVE_COMMAND_H_
#define CLOISTER_CLI_SERVE_COMMAND_H_

#include <chrono>

#include "cloister/cli/serve_options.h"

namespace cloister::cli {

// `cloister serve`: serves the API, starts the VM that --config-file or a
// client describes, and leaves when it has ended. The serial port's output goes
// to stdout. Returns an ExitCode. Signals as for `run`. Call it from main()
// before there is any other thread.
int ServeCommand(const ServeOptions& options,
                 std::chrono::steady_clock::time_point process_start);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SERVE_COMMAND_H_
