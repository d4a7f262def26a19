// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/run_command.h"

#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cloister/api/json.h"
#include "cloister/api/serial_file.h"
#include "cloister/api/vm_config.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/cli/api_service.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/monitor_log.h"
#include "cloister/cli/run_config.h"
#include "cloister/cli/sandbox/sandbox.h"
#include "cloister/cli/signal_set.h"
#include "cloister/cli/terminal.h"
#include "cloister/cli/vm_process.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/memory/conversion_stats.h"
#include "cloister/vmm/boot_advice.h"
#include "cloister/vmm/boot_timer.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/micro_vm.h"
#include "cloister/vmm/size.h"

namespace cloister::cli {
namespace {

using vmm::VmEnd;

uint64_t Sum(const std::array<memory::ConversionStats::Flow, 3>& flows) {
  uint64_t bytes = 0;
  for (const auto& flow : flows) bytes += flow.bytes;
  return bytes;
}

uint64_t Requests(const std::array<memory::ConversionStats::Flow, 3>& flows,
                  memory::ConversionOrigin origin) {
  return flows[static_cast<size_t>(origin)].requests;
}

// What of an ended VM's memory was backed on both sides; it is freed.
std::string DoubleBacked(vmm::MicroVm& vm) {
  absl::StatusOr<memory::ReconcileReport> report = vm.broker()->Reconcile();
  if (!report.ok()) {
    return absl::StrCat("an unknown part backed twice (",
                        report.status().message(), ")");
  }
  return absl::StrCat(vmm::FormatSize(report->double_backed_bytes()),
                      " backed twice");
}

// One line: what is private and shared, and what was converted.
std::string MemoryTotals(vmm::MicroVm& vm) {
  const memory::ConversionStats stats = vm.broker()->stats();
  using Origin = memory::ConversionOrigin;
  return absl::StrCat("memory: ", vmm::FormatSize(stats.private_bytes),
                      " private, ", vmm::FormatSize(stats.shared_bytes),
                      " shared, ", vmm::FormatSize(stats.aliased_total_bytes),
                      " aliased, ", DoubleBacked(vm), "; converted ",
                      vmm::FormatSize(Sum(stats.to_shared)), " to shared and ",
                      vmm::FormatSize(Sum(stats.to_private)), " to private in ",
                      Requests(stats.to_shared, Origin::kExplicit) +
                          Requests(stats.to_private, Origin::kExplicit),
                      " hypercalls and ",
                      Requests(stats.to_shared, Origin::kImplicit) +
                          Requests(stats.to_private, Origin::kImplicit),
                      " faults, ", stats.no_ops, " without effect");
}

// One run, from the options to the exit code.
class Run {
 public:
  // `rest` is as ApplyConfigFile gives it.
  Run(const RunOptions& options, const api::Json& rest, vmm::BootTimer& timer,
      MonitorLog& monitor_log)
      : options_(options),
        rest_(rest),
        timer_(timer),
        monitor_log_(monitor_log),
        log_(monitor_log.log()) {}

  absl::StatusOr<int> Execute();

 private:
  std::vector<int> Signals() const;
  absl::Status CreateConsole();
  absl::Status CreateService();
  vmm::VmHooks Hooks();
  absl::Status OpenSerialFile(vmm::VmHooks* hooks);
  absl::Status Build();
  absl::Status Launch();
  void ShowConsoleSize();
  void OnSignal(int signal);
  void EndService(const VmEnd& end, int code);
  int CodeFor(const VmEnd& end) const;
  void ReportCause(const VmEnd& end);
  void ReportTotals();

  const RunOptions& options_;
  const api::Json& rest_;
  vmm::BootTimer& timer_;
  MonitorLog& monitor_log_;
  base::Logger& log_;
  int signal_ = 0;
  std::unique_ptr<Sandbox> sandbox_;  // outlives the VM's threads
  ConsoleSink sink_;
  std::unique_ptr<api::SerialFile> serial_file_;  // in place of the sink
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<SignalSet> signals_;
  // The console refers to the VM and the VM to the console's sink: the VM
  // stops, then the console goes, then the VM.
  std::unique_ptr<vmm::MicroVm> vm_;
  std::unique_ptr<Terminal> terminal_;
  std::unique_ptr<ApiService> service_;
};

absl::Status Run::CreateConsole() {
  if (options_.console == ConsoleKind::kNone) return absl::OkStatus();
  Terminal::Options terminal;
  terminal.on_input = [this](absl::Span<const uint8_t> bytes) {
    return vm_->ConsoleInput(bytes);
  };
  terminal.on_writable = [this] { vm_->ConsoleWritable(); };
  terminal.on_quit = [this] { vm_->Stop(); };
  terminal.on_break = [this] { vm_->ConsoleBreak(); };
  ASSIGN_OR_RETURN(terminal_, Terminal::Create(*loop_, std::move(terminal)));
  sink_.set_terminal(terminal_.get());
  ShowConsoleSize();
  return absl::OkStatus();
}

// A virtio console tells its guest; a serial port cannot.
void Run::ShowConsoleSize() {
  if (std::optional<Terminal::Size> size = terminal_->size()) {
    vm_->SetConsoleSize(size->columns, size->rows);
  }
}

// The API of a VM that is there already: it can be watched, paused, changed
// and stopped, but no more configured. Without sockets it writes the metrics.
absl::Status Run::CreateService() {
  const bool served = options_.api.wanted() && !options_.no_api;
  if (!served && !rest_.contains("metrics")) return absl::OkStatus();
  ApiService::Parts parts;
  parts.id = options_.config.id;
  parts.process_start = timer_.start();
  parts.hooks.boot_timer = &timer_;
  parts.events = &monitor_log_.events();
  parts.denied_hint = sandbox_->denied_hint();
  ASSIGN_OR_RETURN(service_,
                   ApiService::Create(served ? options_.api : ApiOptions(),
                                      std::move(parts)));
  service_->machine().Adopt(vm_.get(), options_.config, serial_file_.get());
  ASSIGN_OR_RETURN(api::Json config,
                   api::ParseJson(api::ConfigText(
                       options_.config, ConsoleName(options_.console))));
  config.update(rest_);
  return NameLogOptions(
      service_->controller().LoadConfig(api::JsonText(config)), options_.log);
}

absl::Status Run::Launch() {
  RETURN_IF_ERROR(vm_->Start());
  if (service_ == nullptr) return absl::OkStatus();
  service_->controller().AdoptRunning();
  return service_->Start(
      [this] { sandbox_->EnterThread(vmm::ThreadKind::kApi); });
}

void Run::OnSignal(int signal) {
  if (signal == SIGPWR) {
    if (!vm_->PressPowerButton()) {
      log_.Warning("SIGPWR: the guest does not listen to its power button");
    }
    return;
  }
  if (signal == SIGTSTP || signal == SIGCONT) {
    signal == SIGTSTP ? terminal_->Suspend() : terminal_->OnContinue();
    return;
  }
  if (signal == SIGWINCH) {
    ShowConsoleSize();
    return;
  }
  signal_ = signal;
  vm_->Stop();
}

int Run::CodeFor(const VmEnd& end) const {
  if (signal_ != 0 && end.kind == VmEnd::Kind::kStopped) {
    return kExitSignalBase + signal_;
  }
  return ExitCodeFor(end.kind);
}

void Run::ReportCause(const VmEnd& end) {
  if (end.status.ok()) return;
  log_.Error(
      absl::StrCat(vmm::VmEndName(end.kind), ": ", end.status.message()));
  if (end.registers.empty()) return;
  std::fputs(end.registers.c_str(), stderr);
  if (end.registers.back() != '\n') std::fputc('\n', stderr);
}

void Run::ReportTotals() {
  if (vm_->broker() != nullptr) log_.Info(MemoryTotals(*vm_));
  if (options_.boot_timer) std::fputs(timer_.Report().c_str(), stderr);
}

// Clients hear of the end before their connections do.
void Run::EndService(const VmEnd& end, int code) {
  if (service_ == nullptr) return;
  service_->controller().OnEnd(
      {{"reason", std::string(vmm::VmEndName(end.kind))},
       {"error", std::string(end.status.message())},
       {"exit_code", code}});
  service_->controller().FlushMetrics();
  service_->Stop();
}

// Job control needs us only where a terminal's modes are to be restored.
// Without a console the signals keep their effect.
std::vector<int> Run::Signals() const {
  std::vector<int> signals = EndingSignals();
  signals.push_back(SIGPWR);
  if (options_.console != ConsoleKind::kNone) {
    signals.insert(signals.end(), {SIGTSTP, SIGCONT, SIGWINCH});
  }
  return signals;
}

vmm::VmHooks Run::Hooks() {
  vmm::VmHooks hooks;
  hooks.console = &sink_;
  hooks.log = &log_;
  hooks.boot_timer = &timer_;
  hooks.kick_signal = KickSignal();
  hooks.on_console_room = [this] {
    if (terminal_ != nullptr) terminal_->ResumeInput();
  };
  hooks.on_end = [this] { loop_->Stop(); };
  hooks.kvm_fd = sandbox_->kvm_fd();
  hooks.on_thread_start = [this](vmm::ThreadKind kind) {
    sandbox_->EnterThread(kind);
  };
  return hooks;
}

// The section "serial" of --config-file: output goes there, input still comes
// from the terminal.
absl::Status Run::OpenSerialFile(vmm::VmHooks* hooks) {
  if (!rest_.contains("serial")) return absl::OkStatus();
  auto opened = api::SerialFile::Open(rest_["serial"]);
  if (!opened.ok()) {
    return absl::Status(opened.status().code(),
                        absl::StrCat("--config-file ", options_.config_file,
                                     ": ", opened.status().message()));
  }
  serial_file_ = *std::move(opened);
  if (serial_file_ != nullptr) hooks->console = serial_file_.get();
  return absl::OkStatus();
}

absl::Status Run::Build() {
  vmm::VmHooks hooks = Hooks();
  RETURN_IF_ERROR(OpenSerialFile(&hooks));
  ASSIGN_OR_RETURN(vm_, vmm::BuildVm(options_.config, hooks));
  if (options_.config.confidential.backend ==
      confidential::BackendChoice::kAuto) {
    log_.Info(absl::StrCat("confidential backend: ",
                           confidential::BackendKindName(vm_->backend())));
  }
  if (vm_->digest().has_value()) {
    log_.Info(absl::StrCat("launch digest: ", shim::DigestHex(*vm_->digest())));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Run::Execute() {
  ASSIGN_OR_RETURN(signals_, SignalSet::Create(Signals()));
  if (options_.config.confidential.backend !=
      confidential::BackendChoice::kOff) {
    RETURN_IF_ERROR(ForbidDumps());
  }
  ASSIGN_OR_RETURN(sandbox_, Sandbox::Create(options_.sandbox, log_));
  ASSIGN_OR_RETURN(loop_, base::EventLoop::Create());
  RETURN_IF_ERROR(sandbox_->EnterMain());
  RETURN_IF_ERROR(Build());
  RETURN_IF_ERROR(
      signals_->Register(*loop_, [this](int signal) { OnSignal(signal); }));
  RETURN_IF_ERROR(CreateConsole());
  RETURN_IF_ERROR(CreateService());
  RETURN_IF_ERROR(sandbox_->DropIdentity());
  absl::Status status = Launch();
  if (status.ok()) {
    log_.Debug("the guest runs");
    status = loop_->Run();
  }
  vm_->Stop();
  const VmEnd end = vm_->Wait();
  sink_.set_terminal(nullptr);
  terminal_.reset();  // Writes out what is left and restores the terminal.
  const int code = status.ok() ? CodeFor(end) : int{kExitError};
  ReportCause(end);
  EndService(end, code);
  RETURN_IF_ERROR(status);
  ReportTotals();
  return code;
}

// Such a guest comes up, says so among much else, and stays.
void WarnOfMissingInitrd(const vmm::VmConfig& config, base::Logger& log) {
  if (!config.kernel.initrd_path.empty() || config.devices.disks.empty()) {
    return;
  }
  const auto advice = vmm::MissingInitrdAdvice(config.devices.disks[0].path);
  if (advice.has_value()) log.Warning(*advice);
}

// Reads --config-file, and opens the log that it or an option names.
absl::Status Prepare(RunOptions* options, api::Json* rest,
                     MonitorLog& monitor_log) {
  RETURN_IF_ERROR(ApplyConfigFile(options, rest));
  if (!rest->contains("logger")) return absl::OkStatus();
  const absl::Status status = monitor_log.Configure((*rest)["logger"]);
  if (status.ok() || !options->log.path.empty()) {
    return NameLogOptions(status, options->log);
  }
  return absl::Status(status.code(),
                      absl::StrCat("--config-file ", options->config_file, ": ",
                                   status.message()));
}

}  // namespace

int RunCommand(const RunOptions& options,
               std::chrono::steady_clock::time_point process_start) {
  vmm::BootTimer timer(process_start);
  timer.Reached("process start", process_start);
  MonitorLog monitor_log(options.config.id, options.log.minimum);
  RunOptions whole = options;
  api::Json rest;
  absl::Status status = Prepare(&whole, &rest, monitor_log);
  if (!status.ok()) {
    monitor_log.Fail(status.message());
    return kExitError;
  }
  WarnOfMissingInitrd(whole.config, monitor_log.log());
  absl::StatusOr<int> code = Run(whole, rest, timer, monitor_log).Execute();
  if (code.ok()) return *code;
  monitor_log.Fail(code.status().message());
  return kExitError;
}

}  // namespace cloister::cli
