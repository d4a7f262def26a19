// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_CONFIG_FILE_H_
#define CLOISTER_CLI_CONFIG_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace cloister::cli {

// The text of a --config-file, at most 1 MiB. Errors name option and file.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CONFIG_FILE_H_
