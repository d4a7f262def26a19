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
#include "cloister/api/event_hub.h"
#include "cloister/api/vm_config.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/cli/api_service.h"
#include "cloister/cli/exit_code.h"
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
  Run(const RunOptions& options, vmm::BootTimer& timer, base::Logger& log)
      : options_(options), timer_(timer), log_(log) {}

  absl::StatusOr<int> Execute();

 private:
  std::vector<int> Signals() const;
  absl::Status CreateConsole();
  absl::Status CreateService();
  absl::Status Launch();
  void ShowConsoleSize();
  void OnSignal(int signal);
  int Report(const VmEnd& end);

  const RunOptions& options_;
  vmm::BootTimer& timer_;
  base::Logger& log_;
  int signal_ = 0;
  std::unique_ptr<Sandbox> sandbox_;  // outlives the VM's threads
  ConsoleSink sink_;
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<SignalSet> signals_;
  // The console refers to the VM and the VM to the console's sink: the VM
  // stops, then the console goes, then the VM.
  std::unique_ptr<vmm::MicroVm> vm_;
  std::unique_ptr<Terminal> terminal_;
  api::EventHub events_;
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
// and stopped, but no more configured.
absl::Status Run::CreateService() {
  if (!options_.api.wanted() || options_.no_api) return absl::OkStatus();
  ApiService::Parts parts;
  parts.id = options_.config.id;
  parts.process_start = timer_.start();
  parts.hooks.boot_timer = &timer_;
  parts.events = &events_;
  ASSIGN_OR_RETURN(service_,
                   ApiService::Create(options_.api, std::move(parts)));
  service_->machine().Adopt(vm_.get(), options_.config);
  return service_->controller().LoadConfig(
      api::ConfigText(options_.config, ConsoleName(options_.console)));
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

int Run::Report(const VmEnd& end) {
  if (!end.status.ok()) {
    log_.Error(
        absl::StrCat(vmm::VmEndName(end.kind), ": ", end.status.message()));
    if (!end.registers.empty()) {
      std::fputs(end.registers.c_str(), stderr);
      if (end.registers.back() != '\n') std::fputc('\n', stderr);
    }
  }
  if (vm_->broker() != nullptr) log_.Info(MemoryTotals(*vm_));
  if (options_.boot_timer) std::fputs(timer_.Report().c_str(), stderr);
  if (signal_ != 0 && end.kind == VmEnd::Kind::kStopped) {
    return kExitSignalBase + signal_;
  }
  return ExitCodeFor(end.kind);
}

// Job control needs us only where a terminal's modes are to be restored.
// Without a console the signals keep their effect.
std::vector<int> Run::Signals() const {
  std::vector<int> signals = {SIGINT, SIGTERM, SIGHUP, SIGPWR};
  if (options_.console != ConsoleKind::kNone) {
    signals.insert(signals.end(), {SIGTSTP, SIGCONT, SIGWINCH});
  }
  return signals;
}

absl::StatusOr<int> Run::Execute() {
  ASSIGN_OR_RETURN(signals_, SignalSet::Create(Signals()));
  if (options_.config.confidential.backend !=
      confidential::BackendChoice::kOff) {
    RETURN_IF_ERROR(ForbidDumps());
  }
  ASSIGN_OR_RETURN(sandbox_, Sandbox::Create(options_.sandbox, log_));
  ASSIGN_OR_RETURN(loop_, base::EventLoop::Create());
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
  RETURN_IF_ERROR(sandbox_->EnterMain());
  ASSIGN_OR_RETURN(vm_, vmm::BuildVm(options_.config, hooks));
  if (options_.config.confidential.backend ==
      confidential::BackendChoice::kAuto) {
    log_.Info(absl::StrCat("confidential backend: ",
                           confidential::BackendKindName(vm_->backend())));
  }
  if (vm_->digest().has_value()) {
    log_.Info(absl::StrCat("launch digest: ", shim::DigestHex(*vm_->digest())));
  }
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
  VmEnd end = vm_->Wait();
  if (service_ != nullptr) {
    service_->controller().OnEnd(
        {{"reason", std::string(vmm::VmEndName(end.kind))},
         {"error", std::string(end.status.message())}});
    service_->Stop();
  }
  sink_.set_terminal(nullptr);
  terminal_.reset();  // Writes out what is left and restores the terminal.
  RETURN_IF_ERROR(status);
  return Report(end);
}

// Such a guest comes up, says so among much else, and stays.
void WarnOfMissingInitrd(const vmm::VmConfig& config, base::Logger& log) {
  if (!config.kernel.initrd_path.empty() || config.devices.disks.empty()) {
    return;
  }
  const auto advice = vmm::MissingInitrdAdvice(config.devices.disks[0].path);
  if (advice.has_value()) log.Warning(*advice);
}

}  // namespace

int RunCommand(const RunOptions& options,
               std::chrono::steady_clock::time_point process_start,
               base::Logger& log) {
  vmm::BootTimer timer(process_start);
  timer.Reached("process start", process_start);
  RunOptions whole = options;
  absl::Status status = ApplyConfigFile(&whole);
  if (!status.ok()) {
    log.Error(status.message());
    return kExitError;
  }
  WarnOfMissingInitrd(whole.config, log);
  absl::StatusOr<int> code = Run(whole, timer, log).Execute();
  if (code.ok()) return *code;
  log.Error(code.status().message());
  return kExitError;
}

}  // namespace cloister::cli
