// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/serve_command.h"

#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/status_macros.h"
#include "cloister/cli/api_service.h"
#include "cloister/cli/config_file.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/monitor_log.h"
#include "cloister/cli/signal_set.h"
#include "cloister/cli/terminal.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vmm/boot_timer.h"

namespace cloister::cli {
namespace {

// One run of the server, from the options to the exit code. Members are in the
// order in which they refer to each other.
class Serve {
 public:
  Serve(const ServeOptions& options,
        std::chrono::steady_clock::time_point process_start)
      : options_(options),
        process_start_(process_start),
        timer_(process_start),
        monitor_log_(options.id, options.log.minimum),
        log_(monitor_log_.log()) {
    timer_.Reached("process start", process_start);
  }

  int Execute() {
    absl::StatusOr<int> code = Run();
    if (code.ok()) return *code;
    monitor_log_.Fail(code.status().message());
    return kExitError;
  }

 private:
  absl::StatusOr<int> Run();
  absl::Status CreateTerminal();
  absl::Status CreateService();
  absl::Status LoadConfig();
  absl::Status Begin();
  absl::Status StartService();
  absl::Status DropIdentity();
  void OnSignal(int signal);
  int Finish();

  const ServeOptions& options_;
  const std::chrono::steady_clock::time_point process_start_;
  vmm::BootTimer timer_;
  MonitorLog monitor_log_;
  base::Logger& log_;
  int signal_ = 0;
  bool dropped_ = false;  // it is --user and --group
  ConsoleSink sink_;
  std::unique_ptr<Sandbox> sandbox_;
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<SignalSet> signals_;
  std::unique_ptr<Terminal> terminal_;
  std::unique_ptr<ApiService> service_;
};

absl::Status Serve::CreateTerminal() {
  Terminal::Options terminal;
  terminal.input_fd = -1;
  terminal.on_writable = [this] {
    vmm::MicroVm* vm = service_ == nullptr ? nullptr : service_->machine().vm();
    if (vm != nullptr) vm->ConsoleWritable();
  };
  ASSIGN_OR_RETURN(terminal_, Terminal::Create(*loop_, std::move(terminal)));
  sink_.set_terminal(terminal_.get());
  return absl::OkStatus();
}

absl::Status Serve::CreateService() {
  ApiService::Parts parts;
  parts.id = options_.id;
  parts.process_start = process_start_;
  parts.events = &monitor_log_.events();
  parts.configure_log = [this](const api::Json& logger) {
    return monitor_log_.Configure(logger);
  };
  parts.before_start = [this] { return DropIdentity(); };
  parts.denied_hint = sandbox_->denied_hint();
  parts.hooks.console = &sink_;
  parts.hooks.log = &log_;
  parts.hooks.boot_timer = &timer_;
  parts.hooks.kick_signal = KickSignal();
  // A VM that could not be built ends, too, and nobody has seen it.
  parts.hooks.on_end = [this] {
    if (service_->machine().vm() != nullptr) loop_->Stop();
  };
  parts.hooks.kvm_fd = sandbox_->kvm_fd();
  parts.hooks.on_thread_start = [this](vmm::ThreadKind kind) {
    sandbox_->EnterThread(kind);
  };
  ApiOptions api = options_.api;
  if (options_.no_api) api = ApiOptions();
  ASSIGN_OR_RETURN(service_, ApiService::Create(api, std::move(parts)));
  return absl::OkStatus();
}

// What --config-file and the options say, the log's and the metrics' files
// open.
absl::Status Serve::LoadConfig() {
  std::string text = "{}";
  if (!options_.config_file.empty()) {
    ASSIGN_OR_RETURN(text, ReadConfigFile(options_.config_file));
  }
  absl::Status status = NameLogOptions(
      service_->controller().LoadConfig(WithLogOptions(text, options_.log)),
      options_.log);
  if (status.ok() || options_.config_file.empty()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("--config-file ", options_.config_file, ": ",
                                   status.message()));
}

// Once; any thread, one at a time.
absl::Status Serve::DropIdentity() {
  if (dropped_) return absl::OkStatus();
  dropped_ = true;
  return sandbox_->DropIdentity();
}

absl::Status Serve::StartService() {
  RETURN_IF_ERROR(service_->Start(
      [this] { sandbox_->EnterThread(vmm::ThreadKind::kApi); }));
  timer_.Reached("API served");
  if (!service_->tcp_address().empty()) {
    log_.Info(absl::StrCat("API at ", service_->tcp_address()));
  }
  return absl::OkStatus();
}

// Serves. The VM of --config-file runs before that: what it names is opened
// with the rights of whoever started this, and no client can ask for more.
absl::Status Serve::Begin() {
  RETURN_IF_ERROR(LoadConfig());
  if (options_.config_file.empty()) {
    RETURN_IF_ERROR(DropIdentity());
  } else {
    RETURN_IF_ERROR(service_->controller().Start());
  }
  return StartService();
}

absl::StatusOr<int> Serve::Run() {
  if (options_.no_api && options_.config_file.empty()) {
    return absl::InvalidArgumentError("--no-api: needs --config-file");
  }
  std::vector<int> signals = EndingSignals();
  signals.push_back(SIGPWR);
  ASSIGN_OR_RETURN(signals_, SignalSet::Create(signals));
  RETURN_IF_ERROR(ForbidDumps());
  ASSIGN_OR_RETURN(sandbox_, Sandbox::Create(options_.sandbox, log_));
  ASSIGN_OR_RETURN(loop_, base::EventLoop::Create());
  RETURN_IF_ERROR(sandbox_->EnterMain());
  RETURN_IF_ERROR(CreateTerminal());
  RETURN_IF_ERROR(CreateService());
  RETURN_IF_ERROR(
      signals_->Register(*loop_, [this](int signal) { OnSignal(signal); }));
  absl::Status status = Begin();
  if (status.ok()) status = loop_->Run();
  if (!status.ok()) service_->machine().Stop();
  const int code = Finish();
  RETURN_IF_ERROR(status);
  return code;
}

void Serve::OnSignal(int signal) {
  if (signal == SIGPWR) {
    absl::Status status = service_->machine().Press(api::Button::kPower);
    if (!status.ok()) log_.Warning(absl::StrCat("SIGPWR: ", status.message()));
    return;
  }
  signal_ = signal;
  service_->machine().Stop();
  loop_->Stop();
}

int Serve::Finish() {
  int code = signal_ != 0 ? kExitSignalBase + signal_ : kExitOk;
  service_->machine().Close();
  vmm::MicroVm* vm = service_->machine().vm();
  if (vm != nullptr) {
    const vmm::VmEnd end = vm->Wait();
    if (!end.status.ok()) {
      log_.Error(
          absl::StrCat(vmm::VmEndName(end.kind), ": ", end.status.message()));
    }
    if (end.kind != vmm::VmEnd::Kind::kStopped || signal_ == 0) {
      code = ExitCodeFor(end.kind);
    }
    service_->controller().OnEnd(
        {{"reason", std::string(vmm::VmEndName(end.kind))},
         {"error", std::string(end.status.message())},
         {"exit_code", code}});
  }
  service_->controller().FlushMetrics();
  service_->Stop();
  sink_.set_terminal(nullptr);
  terminal_.reset();
  if (options_.boot_timer) std::fputs(timer_.Report().c_str(), stderr);
  return code;
}

}  // namespace

int ServeCommand(const ServeOptions& options,
                 std::chrono::steady_clock::time_point process_start) {
  return Serve(options, process_start).Execute();
}

}  // namespace cloister::cli
