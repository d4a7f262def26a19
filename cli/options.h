// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_OPTIONS_H_
#define CLOISTER_CLI_OPTIONS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cloister/base/log.h"
#include "cloister/cli/api_options.h"
#include "cloister/cli/ctl_options.h"
#include "cloister/cli/log_options.h"
#include "cloister/cli/sandbox/sandbox.h"
#include "cloister/cli/serve_options.h"
#include "cloister/vmm/config.h"

namespace cloister::cli {

enum class Command { kRun, kServe, kCtl, kMeasure, kDoctor, kVersion };

// What standard input and output are connected to: the serial port; a virtio
// console, with the serial port's output beside it; nothing.
enum class ConsoleKind { kStdio, kVirtio, kNone };
// As --console and the API spell it: "serial", "virtio", "none".
const char* ConsoleName(ConsoleKind kind);

struct RunOptions {
  vmm::VmConfig config;
  ConsoleKind console = ConsoleKind::kStdio;
  bool console_given = false;  // else a --config-file says it
  bool boot_timer = false;
  SandboxOptions sandbox;  // not `measure`
  // These are of `run` alone.
  ApiOptions api;
  LogOptions log;
  std::string config_file;  // describes the VM instead of the options
  bool no_api = false;
};

struct DoctorOptions {
  bool json = false;
  // Answer one question by exit code: can this /dev/kvm boot Linux?
  bool can_boot_linux = false;
};

struct CommandLine {
  Command command = Command::kRun;
  RunOptions run;  // also `measure`
  ServeOptions serve;
  CtlOptions ctl;
  DoctorOptions doctor;
  base::LogLevel log_level = base::LogLevel::kInfo;
};

// What became of the arguments: a command line, or the text to print and the
// code to leave with (--help: kExitOk on stdout; a mistake: kExitUsage, one
// line on stderr that names the option).
struct ParseResult {
  std::optional<CommandLine> command_line;
  int exit_code = 0;
  std::string output;
};

// The command line for people: what --help, the man page and the completion of
// shells are made from.
struct OptionHelp {
  std::vector<std::string> names;  // "--kernel"; empty for a positional
  std::string value;               // "FILE"; empty for a flag
  std::string text;
  bool required = false;
};
struct CommandHelp {
  std::string name;
  std::string text;
  std::vector<OptionHelp> options;
  std::vector<CommandHelp> commands;
};
CommandHelp DescribeCommandLine();

// Parses argv. Opens nothing.
ParseResult ParseCommandLine(int argc, const char* const* argv);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_OPTIONS_H_
