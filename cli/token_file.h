// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_TOKEN_FILE_H_
#define CLOISTER_CLI_TOKEN_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace cloister::cli {

// The bearer token in the file of --api-token-file, without the space around
// it: 16 characters or more, in a file that others cannot read. Errors name
// option and file.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_TOKEN_FILE_H_
