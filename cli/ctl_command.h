// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_CTL_COMMAND_H_
#define CLOISTER_CLI_CTL_COMMAND_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/cli/ctl_options.h"

namespace cloister::cli {

// `cloister ctl`: one request, or a stream of them. Prints what the server
// answers on stdout. kExitOk, or kExitError after one line on stderr.
int CtlCommand(const CtlOptions& options);

// The method, path and body of a verb that is one request.
struct CtlRequest {
  std::string method;
  std::string path;
  std::string body;
};
absl::StatusOr<CtlRequest> CtlRequestOf(const CtlOptions& options);

// GET /memory/map and /memory/conversions for people.
std::string MemoryText(const std::string& map, const std::string& conversions);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CTL_COMMAND_H_
