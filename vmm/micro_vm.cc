// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/micro_vm.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/vmm/layout.h"

namespace cloister::vmm {

absl::string_view VmEndName(VmEnd::Kind kind) {
  switch (kind) {
    case VmEnd::Kind::kPowerOff:
      return "power off";
    case VmEnd::Kind::kReset:
      return "reset";
    case VmEnd::Kind::kStopped:
      return "stopped";
    case VmEnd::Kind::kTripleFault:
      return "triple fault";
    case VmEnd::Kind::kNotVerified:
      return "launch not verified";
    case VmEnd::Kind::kConversion:
      return "conversion refused";
    case VmEnd::Kind::kInternalError:
      return "internal error";
  }
  return "unknown";
}

MicroVm::MicroVm(VmHooks hooks) : hooks_(std::move(hooks)) {}

MicroVm::~MicroVm() {
  Stop();
  Wait();
}

absl::Status MicroVm::Start() {
  {
    base::MutexLock lock(&mutex_);
    if (started_) return absl::FailedPreconditionError("VM already started");
    started_ = true;
  }
  if (hooks_.boot_timer != nullptr) hooks_.boot_timer->Reached("first KVM_RUN");
  for (auto& runner : runners_) {
    absl::Status status = runner->Start();
    if (!status.ok()) {
      Stop();
      return status;
    }
  }
  return absl::OkStatus();
}

void MicroVm::Pause() {
  for (auto& runner : runners_) runner->RequestPause();
  // A vCPU parks once its own conversion is done; then nobody else's starts.
  for (auto& runner : runners_) runner->WaitPaused();
  if (broker_ != nullptr) broker_->Pause();
}

void MicroVm::Resume() {
  if (broker_ != nullptr) broker_->Resume();
  for (auto& runner : runners_) runner->Resume();
}

void MicroVm::Stop() {
  End({.kind = VmEnd::Kind::kStopped, .status = {}, .registers = {}});
}

VmEnd MicroVm::Wait() {
  for (auto& runner : runners_) runner->Wait();
  base::MutexLock lock(&mutex_);
  return end_.value_or(VmEnd());
}

bool MicroVm::PressPowerButton() {
  return platform_->power().PressPowerButton();
}

size_t MicroVm::ConsoleInput(absl::Span<const uint8_t> bytes) {
  return platform_->serial().Enqueue(bytes);
}

void MicroVm::ConsoleBreak() { platform_->serial().SendBreak(); }

void MicroVm::ConsoleWritable() { platform_->serial().OnSinkWritable(); }

confidential::BackendKind MicroVm::backend() const {
  return backend_vm_.backend->kind();
}

vcpu::ExitCounters::Snapshot MicroVm::counters(uint32_t cpu) const {
  return runners_.at(cpu)->counters();
}

PlatformEvents MicroVm::Events() {
  PlatformEvents events;
  events.on_power_off = [this] { router_->Request(vcpu::Verdict::kPowerOff); };
  events.on_reset = [this] { router_->Request(vcpu::Verdict::kReset); };
  events.on_boot_marker = [this](uint8_t value, auto when) {
    OnBootMarker(value, when);
  };
  events.on_shim_status = [this](uint8_t status) { OnShimStatus(status); };
  events.on_console_room = hooks_.on_console_room;
  return events;
}

void MicroVm::OnBootMarker(uint8_t value,
                           std::chrono::steady_clock::time_point when) {
  if (value != kInitReached) return;
  // The kernel is done with the accesses that only become conversions early on.
  if (broker_ != nullptr) broker_->ArmImplicitPolicy();
  if (hooks_.boot_timer != nullptr) {
    hooks_.boot_timer->Reached("init reached", when);
  }
}

// The shim has moved everything to private memory and is about to enter the
// kernel. Runs on its vCPU's thread, so the guest stands still.
void MicroVm::OnVerified() {
  verified_.store(true);
  if (hooks_.boot_timer != nullptr) {
    hooks_.boot_timer->Reached("launch verified");
  }
  absl::Status status;
  if (!staged_.empty()) {
    status = broker_
                 ->ConvertForHost(staged_, memory::PageState::kPrivate,
                                  memory::HostConversionReason::kBeforeBoot)
                 .status();
  }
  broker_->GuestStarted();
  if (!status.ok()) End({VmEnd::Kind::kConversion, status, std::string()});
}

void MicroVm::OnShimStatus(uint8_t status) {
  // Once the kernel runs the port is any guest program's, and means nothing.
  if (!digest_.has_value() || verified_.load()) return;
  auto verdict = static_cast<shim::Status>(status);
  if (verdict == shim::Status::kVerified) {
    OnVerified();
    return;
  }
  const char* text = shim::RefusalText(verdict);
  if (text == nullptr) return;
  {
    base::MutexLock lock(&mutex_);
    refusal_ = absl::DataLossError(
        absl::StrCat("the launch shim refused to start the kernel: ", text));
  }
  router_->Request(vcpu::Verdict::kPowerOff);
}

VmEnd MicroVm::Translate(const vcpu::RunEnd& end) const {
  using Kind = vcpu::RunEnd::Kind;
  {
    base::MutexLock lock(&mutex_);
    if (!refusal_.ok()) {
      return {VmEnd::Kind::kNotVerified, refusal_, std::string()};
    }
  }
  switch (end.kind) {
    case Kind::kPowerOff:
      return {VmEnd::Kind::kPowerOff, absl::OkStatus(), std::string()};
    case Kind::kReset:
      return {VmEnd::Kind::kReset, absl::OkStatus(), std::string()};
    case Kind::kStopped:
      return {VmEnd::Kind::kStopped, absl::OkStatus(), std::string()};
    case Kind::kGuestShutdown:
      return {VmEnd::Kind::kTripleFault, end.status, end.registers};
    case Kind::kHalted:
      return {VmEnd::Kind::kInternalError,
              absl::InternalError("a vCPU halted with nothing to wake it"),
              std::string()};
    case Kind::kError:
      break;
  }
  VmEnd::Kind kind = router_->conversion_failed() ? VmEnd::Kind::kConversion
                                                  : VmEnd::Kind::kInternalError;
  return {kind, end.status, end.registers};
}

void MicroVm::OnVcpuEnd(const vcpu::RunEnd& end) { End(Translate(end)); }

void MicroVm::End(VmEnd end) {
  bool first = false;
  {
    base::MutexLock lock(&mutex_);
    if (!end_.has_value()) {
      first = true;
      end_ = std::move(end);
    }
  }
  if (!first) return;
  for (auto& runner : runners_) runner->RequestStop();
  if (broker_ != nullptr) broker_->Shutdown();
  if (hooks_.on_end) hooks_.on_end();
}

}  // namespace cloister::vmm
