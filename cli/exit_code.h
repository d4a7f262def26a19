// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_EXIT_CODE_H_
#define CLOISTER_CLI_EXIT_CODE_H_

namespace cloister::cli {

// What `cloister` leaves with; documented in docs/cli.md.
enum ExitCode : int {
  kExitOk = 0,             // guest powered off or rebooted; user left
  kExitError = 1,          // bad input, or the host refuses something
  kExitUsage = 2,          // the command line is wrong
  kExitTripleFault = 3,    // the guest crashed its CPU
  kExitInternalError = 4,  // KVM or the monitor cannot go on
  kExitNotVerified = 5,    // the launch shim refused what it was given
  kExitConversion = 6,     // a denied or failed conversion ended the VM
  kExitSeccomp = 148,      // a filter refused a system call (docs/sandbox.md)
  kExitSignalBase = 128,   // plus the number of the signal that ended it
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_EXIT_CODE_H_
