// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/options.h"

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/version.h"
#include "cloister/cli/control_options.h"
#include "cloister/cli/device_options.h"
#include "cloister/cli/exit_code.h"
#include "cloister/vmm/boot_advice.h"
#include "cloister/vmm/size.h"

namespace cloister::cli {
namespace {

using base::kVersion;

// A CLI11 callback around a parser of ours: its error is the option's error.
template <typename T, typename Parse>
CLI::callback_t Into(const char* option, T* out, Parse parse) {
  return [option, out, parse](const CLI::results_t& values) {
    auto parsed = parse(values.back());
    if (!parsed.ok()) {
      throw CLI::ValidationError(option,
                                 std::string(parsed.status().message()));
    }
    *out = *std::move(parsed);
    return true;
  };
}

absl::StatusOr<memory::HugePages> ParseHugePages(const std::string& text) {
  if (text == "none") return memory::HugePages::kNone;
  if (text == "transparent") return memory::HugePages::kTransparent;
  if (text == "2M") return memory::HugePages::kHugetlb2M;
  if (text == "1G") return memory::HugePages::kHugetlb1G;
  return absl::InvalidArgumentError(
      "expected none, transparent, 2M or 1G (reserved pages)");
}

absl::StatusOr<memory::ImplicitPolicy> ParseImplicit(const std::string& text) {
  if (text == "allow") return memory::ImplicitPolicy::kAllow;
  if (text == "count") return memory::ImplicitPolicy::kCount;
  if (text == "deny") return memory::ImplicitPolicy::kDeny;
  return absl::InvalidArgumentError("expected allow, count or deny");
}

absl::StatusOr<vmm::ConversionReports> ParseReports(const std::string& text) {
  if (text == "hypercall") return vmm::ConversionReports::kHypercall;
  if (text == "fault") return vmm::ConversionReports::kFault;
  return absl::InvalidArgumentError("expected hypercall or fault");
}

// "serial", "virtio[,LIMITS]" or "none".
struct ConsoleChoice {
  ConsoleKind kind = ConsoleKind::kStdio;
  std::optional<vmm::ConsoleConfig> device;
};

absl::StatusOr<ConsoleChoice> ParseConsole(const std::string& text) {
  ConsoleChoice choice;
  if (text == "stdio" || text == "serial") return choice;
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(text, absl::MaxSplits(',', 1));
  if (text == "none") {
    choice.kind = ConsoleKind::kNone;
  } else if (parts.first == "virtio") {
    choice.kind = ConsoleKind::kVirtio;
    ASSIGN_OR_RETURN(choice.device, ParseConsoleLimits(parts.second));
  } else {
    return absl::InvalidArgumentError("expected serial, virtio or none");
  }
  return choice;
}

absl::StatusOr<base::LogLevel> ParseLogLevel(const std::string& text) {
  for (base::LogLevel level :
       {base::LogLevel::kDebug, base::LogLevel::kInfo, base::LogLevel::kWarning,
        base::LogLevel::kError}) {
    if (text == base::LogLevelName(level)) return level;
  }
  return absl::InvalidArgumentError("expected debug, info, warning or error");
}

absl::StatusOr<confidential::BackendChoice> ParseBackend(
    const std::string& text) {
  return confidential::ParseBackendChoice(text);
}

absl::StatusOr<uint64_t> ParseCount(const std::string& text) {
  uint64_t count = 0;
  if (absl::SimpleAtoi(text, &count)) return count;
  return absl::InvalidArgumentError("expected a number");
}

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  return vmm::ParseSize(text);
}

// An option that may be given several times: each adds to a list.
template <typename T, typename Parse>
CLI::Option* AddList(CLI::App* app, const char* option, std::vector<T>* out,
                     Parse parse, const char* help) {
  auto add = [option, out, parse](const std::vector<std::string>& values) {
    out->clear();
    for (const std::string& value : values) {
      auto parsed = parse(value);
      if (!parsed.ok()) {
        throw CLI::ValidationError(option,
                                   std::string(parsed.status().message()));
      }
      out->push_back(*std::move(parsed));
    }
  };
  return app->add_option_function<std::vector<std::string>>(option, add, help)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

// --console, which for virtio is a device of the guest's, too.
CLI::callback_t IntoConsole(RunOptions* options) {
  return [options](const CLI::results_t& values) {
    ConsoleChoice choice;
    Into("--console", &choice, ParseConsole)(values);
    options->console = choice.kind;
    options->console_given = true;
    if (choice.device.has_value()) {
      options->config.devices.console = choice.device;
    }
    return true;
  };
}

void AddDeviceOptions(CLI::App* app, vmm::DevicesConfig* devices) {
  AddList(
      app, "--disk", &devices->disks, ParseDisk,
      "A raw image as a virtio disk; ro, direct (O_DIRECT), serial=, id=, "
      "bps= and iops= limits, bps_burst=, iops_burst=; may be given several "
      "times")
      ->type_name("PATH[,...]");
  AddList(app, "--net", &devices->nets, ParseNet,
          "A virtio network interface on tap=NAME or fd=N[:N...] of the host; "
          "mac=, queues=, id=, bps= and pps= limits, bps_burst=, pps_burst=; "
          "may be given several times")
      ->type_name("tap=NAME[,...]");
  app->add_option("--rng", Into("--rng", &devices->rng, ParseRng),
                  "A virtio entropy device; bps= and ops= limits, bps_burst=, "
                  "ops_burst=")
      ->expected(0, 1)
      ->type_name("[bps=SIZE,...]");
  app->add_option("--vsock", Into("--vsock", &devices->vsock, ParseVsock),
                  "A virtio socket device: the guest's cid=, the host's Unix "
                  "socket path=, bps= and pps= limits, bps_burst=, pps_burst=")
      ->type_name("cid=N,path=PATH");
  app->add_option("--balloon",
                  Into("--balloon", &devices->balloon, ParseBalloon),
                  "A virtio memory balloon: target=SIZE, oom (deflates before "
                  "the guest runs out), reporting (of free pages), stats=S")
      ->expected(0, 1)
      ->type_name("[target=SIZE,...]");
  app->add_option("--virtio-transport",
                  Into("--virtio-transport", &devices->transport,
                       [](const std::string& text) {
                         return ParseVirtioTransport(text);
                       }),
                  "pci, mmio, or mmio-fdt: by a device tree that the guest "
                  "gets instead of ACPI tables (default pci)")
      ->type_name("KIND");
}

// The options that describe a VM; `measure` takes the same as `run`, so that
// one command line gives one digest.
void AddVmOptions(CLI::App* app, RunOptions* options) {
  vmm::VmConfig& config = options->config;
  app->add_option("--kernel", config.kernel.path,
                  "Linux kernel: a bzImage or an ELF vmlinux; required")
      ->type_name("FILE");
  app->add_option("--initrd", config.kernel.initrd_path, "Initial RAM disk")
      ->type_name("FILE");
  app->add_option("--append", config.kernel.command_line, "Kernel command line")
      ->type_name("TEXT");
  app->add_option("--cpus", config.cpus.count, "Number of vCPUs (default 1)")
      ->type_name("N");
  app->add_option("--threads-per-core", config.cpus.threads_per_core,
                  "Topology shown to the guest (default 1)")
      ->type_name("N");
  app->add_option("--memory",
                  Into("--memory", &config.memory.bytes, ParseBytes),
                  "Guest RAM, such as 512M (default 256M)")
      ->type_name("SIZE");
  app->add_option(
         "--huge-pages",
         Into("--huge-pages", &config.memory.huge_pages, ParseHugePages),
         "none, transparent, 2M or 1G; only with --confidential off")
      ->type_name("KIND");
  app->add_option(
         "--confidential",
         Into("--confidential", &config.confidential.backend, ParseBackend),
         "off, auto, emulated or sw-protected (default auto)")
      ->type_name("BACKEND");
  app->add_option("--implicit-conversions",
                  Into("--implicit-conversions",
                       &config.confidential.policy.implicit, ParseImplicit),
                  "What a touch of a page in the other state does: allow, "
                  "count or deny (default count)")
      ->type_name("POLICY");
  app->add_option("--conversion-reports",
                  Into("--conversion-reports", &config.confidential.reports,
                       ParseReports),
                  "How the guest tells of a conversion: hypercall (AMD hosts) "
                  "or fault (default hypercall); part of the launch digest")
      ->type_name("HOW");
  app->add_option("--shared-limit",
                  Into("--shared-limit",
                       &config.confidential.policy.shared_limit, ParseBytes),
                  "Bytes that the guest may share at a time (default: all)")
      ->type_name("SIZE");
  app->add_option("--conversion-rate",
                  Into("--conversion-rate",
                       &config.confidential.policy.per_second, ParseCount),
                  "Conversions per second, on average, beyond which the guest "
                  "is delayed (default 0: no limit)")
      ->type_name("N");
  AddDeviceOptions(app, &config.devices);
  app->add_option(
         "--console", IntoConsole(options),
         "What this terminal is in the guest: serial (ttyS0), virtio "
         "(hvc0; bps= and ops= limits, bps_burst=, ops_burst=) or none "
         "(default serial)")
      ->type_name("WHERE");
  app->add_option("--id", config.id, "Name of the VM in messages")
      ->type_name("NAME");
  app->add_flag("--boot-timer", options->boot_timer,
                "Print the time of each phase of the start");
}

// What takes rights from a process that runs VMs.
void AddSandboxOptions(CLI::App* app, SandboxOptions* options) {
  app->add_option("--user", options->user,
                  "User to become before the guest runs (default: none)")
      ->type_name("USER");
  app->add_option("--group", options->group,
                  "Group to become (default: the user's)")
      ->type_name("GROUP");
  app->add_flag_callback(
      "--no-seccomp", [options] { options->seccomp = false; },
      "Do not filter system calls");
}

void AddConfigFile(CLI::App* app, std::string* config_file) {
  app->add_option("--config-file", *config_file,
                  "JSON that describes the VM, as GET /vm/config prints it")
      ->type_name("FILE");
}

void AddNoApi(CLI::App* app, bool* no_api) {
  app->add_flag("--no-api", *no_api, "Serve no API; needs --config-file");
}

// A kernel comes by option, or in the file.
void RequireKernel(CLI::App* app, const RunOptions* options) {
  app->callback([options] {
    if (!options->config.kernel.path.empty() || !options->config_file.empty()) {
      return;
    }
    const auto& disks = options->config.devices.disks;
    if (disks.empty()) throw CLI::RequiredError("--kernel");
    throw CLI::ValidationError("--kernel is required",
                               vmm::MissingKernelAdvice(disks[0].path));
  });
}

void AddServeOptions(CLI::App* app, ServeOptions* options) {
  AddApiOptions(app, &options->api);
  AddConfigFile(app, &options->config_file);
  AddNoApi(app, &options->no_api);
  AddLogOptions(app, &options->log);
  app->add_option("--id", options->id, "Name of the VM in messages")
      ->type_name("NAME");
  app->add_flag("--boot-timer", options->boot_timer,
                "Print the time of each phase of the start");
  AddSandboxOptions(app, &options->sandbox);
  app->callback([options] {
    if (!options->api.wanted() && !options->no_api) {
      throw CLI::RequiredError("--api-sock");
    }
  });
}

OptionHelp Describe(const CLI::Option& option) {
  OptionHelp help;
  for (const std::string& name : option.get_snames()) {
    help.names.push_back("-" + name);
  }
  for (const std::string& name : option.get_lnames()) {
    help.names.push_back("--" + name);
  }
  if (option.get_items_expected_max() > 0) help.value = option.get_type_name();
  help.text = option.get_description();
  help.required = option.get_required();
  return help;
}

CommandHelp Describe(const CLI::App& app) {
  CommandHelp help;
  help.name = app.get_name();
  help.text = app.get_description();
  for (const CLI::Option* option : app.get_options()) {
    help.options.push_back(Describe(*option));
  }
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    help.commands.push_back(Describe(*command));
  }
  return help;
}

// CLI11's text, as one line.
std::string OneLine(absl::string_view text) {
  std::string line = absl::StrReplaceAll(text, {{"\n", " "}});
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

struct Parser {
  CommandLine result;
  CLI::App app{"Runs confidential microVMs on /dev/kvm.", "cloister"};
  CLI::App* run = nullptr;
  CLI::App* serve = nullptr;
  CLI::App* ctl = nullptr;
  CLI::App* measure = nullptr;
  CLI::App* doctor = nullptr;
  CLI::App* version = nullptr;

  Parser() {
    app.require_subcommand(1);
    app.set_help_all_flag("--help-all", "Help for every command");
    app.set_version_flag("--version", absl::StrCat("cloister ", kVersion),
                         "Print the version");
    app.add_option("--log-level",
                   Into("--log-level", &result.log_level, ParseLogLevel),
                   "debug, info, warning or error (default info)")
        ->type_name("LEVEL");
    run = app.add_subcommand(
        "run",
        "Boot a Linux kernel and attach to its console (Ctrl-A x leaves)");
    AddVmOptions(run, &result.run);
    AddApiOptions(run, &result.run.api);
    AddConfigFile(run, &result.run.config_file);
    AddNoApi(run, &result.run.no_api);
    AddLogOptions(run, &result.run.log);
    AddSandboxOptions(run, &result.run.sandbox);
    RequireKernel(run, &result.run);
    serve = app.add_subcommand(
        "serve", "Serve the control API, and run the VM that it describes");
    AddServeOptions(serve, &result.serve);
    ctl = app.add_subcommand("ctl", "Talk to a VM through its control API");
    AddCtlCommands(ctl, &result.ctl);
    measure = app.add_subcommand(
        "measure", "Print the launch digest of such a VM, without starting it");
    AddVmOptions(measure, &result.run);
    AddConfigFile(measure, &result.run.config_file);
    RequireKernel(measure, &result.run);
    doctor = app.add_subcommand(
        "doctor", "Say what this host's /dev/kvm offers and what is missing");
    doctor->add_flag("--json", result.doctor.json, "Print JSON");
    doctor->add_flag(
        "--can-boot-linux", result.doctor.can_boot_linux,
        "Only answer whether Linux can run here: exit code 0 or 1");
    version = app.add_subcommand("version", "Print the version");
    for (CLI::App* command : {run, serve, measure, doctor, version}) {
      command->fallthrough();
      // A later option overrides an earlier one, so scripts can have defaults.
      for (CLI::Option* option : command->get_options()) {
        if (option->get_multi_option_policy() !=
            CLI::MultiOptionPolicy::TakeAll) {
          option->take_last();
        }
      }
    }
  }

  // What is wrong with the arguments, in one line.
  std::string Mistake(absl::string_view what) const {
    if (app.get_subcommands().empty() && !app.remaining().empty()) {
      return absl::StrCat("unknown command or option \"",
                          absl::CHexEscape(app.remaining().front()), "\"");
    }
    return OneLine(what);
  }

  Command Chosen() const {
    if (measure->parsed()) return Command::kMeasure;
    if (serve->parsed()) return Command::kServe;
    if (ctl->parsed()) return Command::kCtl;
    if (doctor->parsed()) return Command::kDoctor;
    if (version->parsed()) return Command::kVersion;
    return Command::kRun;
  }
};

}  // namespace

const char* ConsoleName(ConsoleKind kind) {
  switch (kind) {
    case ConsoleKind::kStdio:
      return "serial";
    case ConsoleKind::kVirtio:
      return "virtio";
    case ConsoleKind::kNone:
      return "none";
  }
  return "serial";
}

CommandHelp DescribeCommandLine() { return Describe(Parser().app); }

ParseResult ParseCommandLine(int argc, const char* const* argv) {
  Parser parser;
  ParseResult result;
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    result.output = parser.app.help();
    return result;
  } catch (const CLI::CallForAllHelp&) {
    result.output = parser.app.help("", CLI::AppFormatMode::All);
    return result;
  } catch (const CLI::CallForVersion& version) {
    result.output = absl::StrCat(version.what(), "\n");
    return result;
  } catch (const CLI::ParseError& error) {
    result.exit_code = kExitUsage;
    result.output = absl::StrCat("cloister: ", parser.Mistake(error.what()),
                                 " (try --help)\n");
    return result;
  }
  parser.result.command = parser.Chosen();
  parser.result.serve.log.minimum = parser.result.log_level;
  parser.result.run.log.minimum = parser.result.log_level;
  result.command_line = std::move(parser.result);
  return result;
}

}  // namespace cloister::cli
