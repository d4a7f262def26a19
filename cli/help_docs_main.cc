// SPDX-License-Identifier: Apache-2.0
//
// Prints the manual page or the completion: run during the build.
// usage: help_docs_main man|bash
#include <cstdio>
#include <string>

#include "cloister/base/version.h"
#include "cloister/cli/help_docs.h"
#include "cloister/cli/options.h"

int main(int argc, char** argv) {
  using namespace cloister;  // NOLINT
  const std::string what = argc == 2 ? argv[1] : "";
  const cli::CommandHelp program = cli::DescribeCommandLine();
  if (what == "man") {
    std::fputs(cli::ManPage(program, base::kVersion).c_str(), stdout);
  } else if (what == "bash") {
    std::fputs(cli::BashCompletion(program).c_str(), stdout);
  } else {
    return 2;
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}
