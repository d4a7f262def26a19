// SPDX-License-Identifier: Apache-2.0
//
// The cloister program: see docs/cli.md.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>

#include "absl/status/status.h"
#include "cloister/base/log.h"
#include "cloister/base/version.h"
#include "cloister/cli/crash_cleanup.h"
#include "cloister/cli/ctl_command.h"
#include "cloister/cli/doctor_command.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/measure_command.h"
#include "cloister/cli/options.h"
#include "cloister/cli/run_command.h"
#include "cloister/cli/sandbox/sandbox.h"
#include "cloister/cli/serve_command.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vcpu/kick_signal.h"

namespace {

using cloister::cli::Command;
using cloister::cli::CommandLine;

int Dispatch(const CommandLine& command_line,
             std::chrono::steady_clock::time_point start,
             cloister::base::Logger& log) {
  switch (command_line.command) {
    case Command::kRun:
      return cloister::cli::RunCommand(command_line.run, start);
    case Command::kServe:
      return cloister::cli::ServeCommand(command_line.serve, start);
    case Command::kCtl:
      return cloister::cli::CtlCommand(command_line.ctl);
    case Command::kMeasure:
      return cloister::cli::MeasureCommand(command_line.run, log);
    case Command::kDoctor:
      return cloister::cli::DoctorCommand(command_line.doctor);
    case Command::kVersion:
      std::printf("cloister %s\n", cloister::base::kVersion);
      return cloister::cli::kExitOk;
  }
  return cloister::cli::kExitUsage;
}

// Whoever starts us without standard input, output or error must not have the
// VM's descriptors, opened next, take their numbers: the guest's console or a
// message would be written into them.
bool OpenStandardFds() {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    if (::open("/dev/null", O_RDWR) != fd) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  if (!OpenStandardFds()) return cloister::cli::kExitError;
  // A reader that leaves, or a log as large as files may be, must not end the
  // guest: writes fail instead.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  auto parsed = cloister::cli::ParseCommandLine(argc, argv);
  if (!parsed.command_line.has_value()) {
    std::fputs(parsed.output.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  cloister::base::Logger log(cloister::base::StderrSink(),
                             parsed.command_line->log_level,
                             /*per_second=*/100);
  absl::Status ready = cloister::cli::ForbidNewPrivileges();
  if (ready.ok()) ready = cloister::cli::RaiseFileLimit();
  if (ready.ok()) ready = cloister::cli::InstallCrashCleanUp();
  if (ready.ok()) {
    ready = cloister::vcpu::InstallKickHandler(cloister::cli::KickSignal());
  }
  if (!ready.ok()) {
    log.Error(ready.message());
    return cloister::cli::kExitError;
  }
  return Dispatch(*parsed.command_line, start, log);
}
