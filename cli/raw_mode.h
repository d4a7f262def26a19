// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_RAW_MODE_H_
#define CLOISTER_CLI_RAW_MODE_H_

#include "absl/status/status.h"

namespace cloister::cli {

// Puts the terminal that the process was started on into raw mode, and back on
// every way out of the process that a process can see:
//   - Leave();
//   - exit(3) and quick_exit(3), by a handler;
//   - SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGABRT, SIGSEGV and the other fatal
//     signals, by handlers that restore and then do what the signal would have
//     done without them. What is ignored, blocked (see SignalSet) or handled
//     stays so, but for crashes: their handlers (a sanitizer's) run second.
// SIGKILL and _exit(2) leave the terminal raw.
//
// Nothing here stops a process in the background: SIGTTOU is held off while the
// terminal is changed. Raw mode keeps output processing (OPOST), so that the
// monitor's own lines look right; Ctrl-C, Ctrl-Z and Ctrl-S go to the guest.
// The state is the process's, hence static; all calls from one thread.
class RawMode {
 public:
  // Switches terminal `fd`, which stays open until Leave or the process ends.
  // The modes found by the first Enter after a Leave are what is restored; a
  // repeated Enter only sets raw mode again. FailedPrecondition if the process
  // is in the background; InvalidArgument if `fd` is no terminal or another one
  // is raw.
  static absl::Status Enter(int fd);

  // Restores the terminal; without effect if it is not raw.
  static void Leave();

  static bool active();

  // True if `fd` is the controlling terminal and another process group is in
  // its foreground.
  static bool InBackground(int fd);
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_RAW_MODE_H_
