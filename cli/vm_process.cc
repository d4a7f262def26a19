// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/vm_process.h"

#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>

#include "cloister/base/syscall.h"
#include "cloister/cli/crash_cleanup.h"
#include "cloister/cli/exit_code.h"

namespace cloister::cli {

int KickSignal() { return SIGRTMIN; }

std::vector<int> EndingSignals() {
  std::vector<int> signals = {SIGINT,  SIGTERM,   SIGHUP,    SIGQUIT,
                              SIGALRM, SIGUSR1,   SIGUSR2,   SIGXCPU,
                              SIGPROF, SIGVTALRM, SIGSTKFLT, SIGIO};
  for (int signal = CleanUpSignal() + 1; signal <= SIGRTMAX; ++signal) {
    signals.push_back(signal);
  }
  return signals;
}

absl::Status ForbidDumps() {
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
    return base::ErrnoStatus(errno, "prctl PR_SET_DUMPABLE");
  }
  const rlimit none = {0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) < 0) {
    return base::ErrnoStatus(errno, "setrlimit RLIMIT_CORE");
  }
  return absl::OkStatus();
}

absl::Status RaiseFileLimit() {
  rlimit files = {};
  if (::getrlimit(RLIMIT_NOFILE, &files) < 0) {
    return base::ErrnoStatus(errno, "getrlimit RLIMIT_NOFILE");
  }
  files.rlim_cur = files.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &files) < 0) {
    return base::ErrnoStatus(errno, "setrlimit RLIMIT_NOFILE");
  }
  return absl::OkStatus();
}

int ExitCodeFor(vmm::VmEnd::Kind kind) {
  using Kind = vmm::VmEnd::Kind;
  switch (kind) {
    case Kind::kPowerOff:
    case Kind::kReset:
    case Kind::kStopped:
      return kExitOk;
    case Kind::kTripleFault:
      return kExitTripleFault;
    case Kind::kNotVerified:
      return kExitNotVerified;
    case Kind::kConversion:
      return kExitConversion;
    case Kind::kInternalError:
      return kExitInternalError;
  }
  return kExitInternalError;
}

}  // namespace cloister::cli
