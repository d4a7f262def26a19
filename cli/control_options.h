// SPDX-License-Identifier: Apache-2.0
//
// The options of `serve` and `ctl`, and those of `run` that concern the API.
#ifndef CLOISTER_CLI_CONTROL_OPTIONS_H_
#define CLOISTER_CLI_CONTROL_OPTIONS_H_

#include "cloister/cli/api_options.h"
#include "cloister/cli/ctl_options.h"
#include "cloister/cli/log_options.h"

namespace CLI {
class App;
}  // namespace CLI

namespace cloister::cli {

// Where the API is served: --api-sock and its relatives.
void AddApiOptions(CLI::App* app, ApiOptions* options);
// Where the log and the metrics go, by Firecracker's names.
void AddLogOptions(CLI::App* app, LogOptions* options);
// The verbs of `ctl`, as commands of `app`.
void AddCtlCommands(CLI::App* app, CtlOptions* options);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CONTROL_OPTIONS_H_
