// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_EXAMPLES_SHELL_H_
#define CLOISTER_EXAMPLES_SHELL_H_

#include <string>

namespace cloister::examples {

struct ShellResult {
  int exit_code = -1;  // -1: it did not leave by itself
  std::string output;  // stdout and stderr
};

// Runs `command` with sh and waits for its end.
ShellResult Shell(const std::string& command);

}  // namespace cloister::examples

#endif  // CLOISTER_EXAMPLES_SHELL_H_
