// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_KICK_SIGNAL_H_
#define CLOISTER_VCPU_KICK_SIGNAL_H_

#include <csignal>

#include "absl/status/status.h"

namespace cloister::vcpu {

// For applications: installs a handler for `signal` that does nothing, so that
// it can interrupt KVM_RUN and nothing else (SA_RESTART). Signal dispositions
// belong to the whole process, so no library of this folder calls it; call it
// once, before the first Runner, say with SIGRTMIN. Any number of VMs share it.
// InvalidArgument for numbers that are no signals one can handle.
absl::Status InstallKickHandler(int signal);

// FailedPrecondition unless `signal` has a handler: by default it would end the
// process, ignored it would not reach a vCPU in guest mode.
absl::Status CheckKickHandler(int signal);

// Unblocks `signal` in this thread, and restores its mask when destroyed.
class UnblockedSignal {
 public:
  explicit UnblockedSignal(int signal);
  ~UnblockedSignal();
  UnblockedSignal(const UnblockedSignal&) = delete;
  UnblockedSignal& operator=(const UnblockedSignal&) = delete;

 private:
  sigset_t before_;
};

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_KICK_SIGNAL_H_
