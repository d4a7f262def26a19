// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_RUN_CONFIG_H_
#define CLOISTER_CLI_RUN_CONFIG_H_

#include "absl/status/status.h"
#include "cloister/api/json.h"
#include "cloister/cli/options.h"

namespace cloister::cli {

// Puts what --config-file describes in place of the options that describe a VM,
// if there is such a file: for `run` and for `measure`, so that both know the
// same VM. Errors are one line that names option and file; the options are then
// as they were.
//
// What else the file and the options say goes to `rest`, if it is not null:
// the sections "logger", "metrics" and "serial" of the API's schema, each if
// there is one.
absl::Status ApplyConfigFile(RunOptions* options, api::Json* rest = nullptr);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_RUN_CONFIG_H_
