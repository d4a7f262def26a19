// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_RUN_CONFIG_H_
#define CLOISTER_CLI_RUN_CONFIG_H_

#include "absl/status/status.h"
#include "cloister/cli/options.h"

namespace cloister::cli {

// Puts what --config-file describes in place of the options that describe a VM,
// if there is such a file: for `run` and for `measure`, so that both know the
// same VM. Errors are one line that names option and file; the options are then
// as they were.
absl::Status ApplyConfigFile(RunOptions* options);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_RUN_CONFIG_H_
