// SPDX-License-Identifier: Apache-2.0
//
// Pages made from the same tables as --help, when the program is built.
#ifndef CLOISTER_CLI_HELP_DOCS_H_
#define CLOISTER_CLI_HELP_DOCS_H_

#include <string>

#include "absl/strings/string_view.h"
#include "cloister/cli/options.h"

namespace cloister::cli {

// The manual page cloister(1), in man(7) macros.
std::string ManPage(const CommandHelp& program, absl::string_view version);

// A completion for bash: commands, options, and files where an option's value
// is FILE, PATH or DIR. Needs no bash-completion functions.
std::string BashCompletion(const CommandHelp& program);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_HELP_DOCS_H_
