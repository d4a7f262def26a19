// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_CTL_COMMAND_H_
#define CLOISTER_CLI_CTL_COMMAND_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/api/request.h"
#include "cloister/cli/ctl_options.h"

namespace cloister::cli {

// `cloister ctl`: one request, or a stream of them. Prints what the server
// answers on stdout. kExitOk, or kExitError after one line on stderr.
int CtlCommand(const CtlOptions& options);

// The request of a verb that is one, checked against the API's schema:
// InvalidArgument, NotFound or Unimplemented for what no server would take.
absl::StatusOr<api::ClientRequest> CtlRequestOf(const CtlOptions& options);

// GET /memory/map and /memory/conversions for people.
std::string MemoryText(const std::string& map, const std::string& conversions);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CTL_COMMAND_H_
