// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_SHELL_H_
#define CLOISTER_TESTS_SHELL_H_

#include <string>

namespace cloister::tests {

// Runs `command` by `sh -euc`, on the machine the test runs on, and returns
// what it printed on stdout and stderr, without white space at either end.
// A command that fails, or takes more than five minutes, fails the test.
std::string Sh(const std::string& command);

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_SHELL_H_
