// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/kick_signal.h"

#include <pthread.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::vcpu {
namespace {

void DoNothing(int) {}

}  // namespace

absl::Status InstallKickHandler(int signal) {
  struct sigaction action = {};
  action.sa_handler = DoNothing;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(signal, &action, nullptr) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("sigaction(", signal, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckKickHandler(int signal) {
  struct sigaction action = {};
  if (sigaction(signal, nullptr, &action) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("sigaction(", signal, ")"));
  }
  bool has_handler =
      (action.sa_flags & SA_SIGINFO) != 0 ||
      (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
  if (has_handler) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("kick signal ", signal,
                   " has no handler: the application must install one before "
                   "it starts vCPUs (see InstallKickHandler)"));
}

UnblockedSignal::UnblockedSignal(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, &before_);
}

UnblockedSignal::~UnblockedSignal() {
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace cloister::vcpu
