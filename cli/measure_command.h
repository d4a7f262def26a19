// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_MEASURE_COMMAND_H_
#define CLOISTER_CLI_MEASURE_COMMAND_H_

#include "cloister/base/log.h"
#include "cloister/cli/options.h"

namespace cloister::cli {

// `cloister measure`: prints, as JSON on stdout, the launch digest of the VM
// that `cloister run` would start with the same options, and its inputs in
// order. Needs no /dev/kvm. Returns an ExitCode.
int MeasureCommand(const RunOptions& options, base::Logger& log);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_MEASURE_COMMAND_H_
