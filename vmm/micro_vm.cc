// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/micro_vm.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/vmm/layout.h"

namespace cloister::vmm {
namespace {

// Where the host has no room for a signal, a vCPU is signalled again after it.
constexpr std::chrono::milliseconds kKickAgainAfter(10);

}  // namespace

MicroVm::MicroVm(VmHooks hooks) : hooks_(std::move(hooks)) {}

MicroVm::~MicroVm() {
  Stop();
  Wait();
}

std::vector<std::shared_ptr<vcpu::Runner>> MicroVm::Runners() const {
  base::MutexLock lock(&parts_mutex_);
  return runners_;
}

absl::Status MicroVm::Start() {
  base::MutexLock lock(&start_mutex_);
  return StartVcpus();
}

absl::Status MicroVm::StartVcpus() {
  {
    base::MutexLock lock(&mutex_);
    if (started_) return absl::FailedPreconditionError("VM already started");
    started_ = true;
  }
  absl::Status status;
  if (broker_ != nullptr) status = broker_->BeginLaunch();
  if (status.ok() && hooks_.boot_timer != nullptr) {
    hooks_.boot_timer->Reached("first KVM_RUN");
  }
  for (const auto& runner : Runners()) {
    if (status.ok()) status = runner->Start();
  }
  if (!status.ok()) Stop();
  return status;
}

void MicroVm::Pause() {
  base::MutexLock lock(&pause_mutex_);
  if (++pauses_ > 1) return;
  const auto runners = Runners();
  for (const auto& runner : runners) runner->RequestPause();
  if (broker_ != nullptr) broker_->Pause();
  WaitForHalt(runners);
}

void MicroVm::NoteHalt() {
  base::MutexLock lock(&halt_mutex_);
  ++halts_;
  halted_.SignalAll();
}

void MicroVm::WaitForHalt(
    const std::vector<std::shared_ptr<vcpu::Runner>>& runners) {
  for (;;) {
    uint64_t seen = 0;
    {
      base::MutexLock lock(&halt_mutex_);
      seen = halts_;
    }
    // In this order: whoever is held now was running before, and no runner that
    // has parked goes on.
    const auto running = static_cast<size_t>(
        std::count_if(runners.begin(), runners.end(),
                      [](const auto& runner) { return !runner->paused(); }));
    if (running <= (broker_ == nullptr ? 0 : broker_->held())) return;
    bool in_time = true;
    {
      base::MutexLock lock(&halt_mutex_);
      const auto deadline = std::chrono::steady_clock::now() + kKickAgainAfter;
      while (in_time && halts_ == seen) {
        in_time = halted_.WaitUntil(&halt_mutex_, deadline);
      }
    }
    if (in_time) continue;
    for (const auto& runner : runners) runner->KickAgain();
  }
}

void MicroVm::Resume() {
  base::MutexLock lock(&pause_mutex_);
  if (pauses_ == 0 || --pauses_ > 0) return;
  if (broker_ != nullptr) broker_->Resume();
  for (const auto& runner : Runners()) runner->Resume();
}

void MicroVm::Stop() {
  {
    base::MutexLock lock(&mutex_);
    stop_requested_ = relaunching_;
  }
  End({.kind = VmEnd::Kind::kStopped, .status = {}, .registers = {}});
}

VmEnd MicroVm::Wait() {
  std::shared_ptr<const std::optional<VmEnd>> run;
  std::vector<std::shared_ptr<vcpu::Runner>> runners;
  {
    base::MutexLock starting(&start_mutex_);
    base::MutexLock parts(&parts_mutex_);
    base::MutexLock lock(&mutex_);
    if (between_runs_) return **end_;
    run = end_;
    runners = runners_;
  }
  for (const auto& runner : runners) runner->Wait();
  runners.clear();
  // Whoever has the broker call back now finds the end noted: no lock is taken
  // twice.
  base::MutexLock parts(&parts_mutex_);
  VmEnd end;
  {
    base::MutexLock lock(&mutex_);
    if (!run->has_value()) return end;
    end = **run;
    // Another waiter may have relaunched: then the broker is not this run's.
    if (between_runs_ || run != end_) return end;
  }
  if (broker_ != nullptr) {
    // Once for each run, and not for one that its shim did not let begin.
    const bool ran = broker_->phase() == memory::ConversionPhase::kRunning;
    broker_->GuestStopped();
    if (ran) WarnOfUnarmedDenial();
  }
  return end;
}

void MicroVm::WarnOfUnarmedDenial() {
  if (!broker_->DenialAwaitsSetPoint()) return;
  const memory::ConversionStats stats = broker_->stats();
  const auto implicit =
      static_cast<size_t>(memory::ConversionOrigin::kImplicit);
  hooks_.log->Warning(absl::StrCat(
      "implicit conversions were never denied: the guest did not write ",
      static_cast<int>(kInitReached), " to port 0x", absl::Hex(kBootMarkerPort),
      "; ",
      stats.to_shared[implicit].requests + stats.to_private[implicit].requests,
      " were allowed"));
}

absl::Status MicroVm::Relaunch() {
  base::MutexLock pause_lock(&pause_mutex_);
  {
    base::MutexLock lock(&mutex_);
    if (!end_->has_value() || relaunching_ || pauses_ > 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("relaunch: the VM ",
                       pauses_ > 0 ? "is paused" : "has not ended its run"));
    }
    relaunching_ = true;
    stop_requested_ = false;
  }
  absl::Status status = TakeApart();
  if (status.ok()) status = rebuild_();
  base::MutexLock starting(&start_mutex_);
  {
    base::MutexLock parts(&parts_mutex_);
    base::MutexLock lock(&mutex_);
    relaunching_ = false;
    if (!status.ok()) return status;
    if (stop_requested_) {
      return absl::CancelledError("relaunch: the VM was stopped meanwhile");
    }
    verified_.store(false);
    between_runs_ = false;
    end_ = std::make_shared<std::optional<VmEnd>>();
    refusal_ = absl::OkStatus();
    started_ = false;
  }
  return StartVcpus();
}

absl::Status MicroVm::TakeApart() {
  std::vector<std::shared_ptr<vcpu::Runner>> runners;
  std::unique_ptr<ExitRouter> router;
  std::unique_ptr<Platform> platform;
  std::unique_ptr<VirtioDevices> virtio;
  for (const auto& runner : Runners()) runner->Wait();
  {
    base::MutexLock devices_lock(&devices_mutex_);
    base::MutexLock lock(&parts_mutex_);
    runners.swap(runners_);
    router = std::move(router_);
    platform = std::move(platform_);
    virtio = std::move(virtio_);
  }
  // Devices go before the memory that they use, and without the lock.
  runners.clear();
  router.reset();
  platform.reset();
  virtio.reset();
  // Waits for leases, and frees both sides of every page.
  if (broker_ != nullptr) RETURN_IF_ERROR(broker_->Reset());
  base::MutexLock lock(&parts_mutex_);
  between_runs_ = true;
  broker_.reset();
  view_.reset();
  backend_vm_.vm.reset();
  backend_vm_ = confidential::BackendVm();
  states_.reset();
  staged_.clear();
  return absl::OkStatus();
}

bool MicroVm::PressPowerButton() {
  base::MutexLock lock(&parts_mutex_);
  return platform_ != nullptr && platform_->power().PressPowerButton();
}

bool MicroVm::PressCtrlAltDel() {
  base::MutexLock lock(&parts_mutex_);
  return platform_ != nullptr && platform_->keyboard().SendCtrlAltDel();
}

devices::Serial::Counters MicroVm::serial_counters() const {
  base::MutexLock lock(&parts_mutex_);
  return platform_ == nullptr ? devices::Serial::Counters()
                              : platform_->serial().counters();
}

absl::Status MicroVm::ChangeDevices(
    absl::FunctionRef<absl::Status(DeviceControl&)> change) {
  base::MutexLock devices_lock(&devices_mutex_);
  DeviceControl* control = nullptr;
  {
    base::MutexLock lock(&parts_mutex_);
    if (virtio_ != nullptr) control = &virtio_->control();
  }
  if (control == nullptr) {
    return absl::FailedPreconditionError("the VM is between two launches");
  }
  return change(*control);
}

std::vector<DeviceCounters> MicroVm::device_counters() const {
  base::MutexLock lock(&parts_mutex_);
  return virtio_ == nullptr ? std::vector<DeviceCounters>()
                            : virtio_->counters();
}

size_t MicroVm::ConsoleInput(absl::Span<const uint8_t> bytes) {
  base::MutexLock lock(&parts_mutex_);
  if (platform_ == nullptr) return 0;
  devices::virtio::Console* const console = VirtioConsole();
  return console != nullptr ? console->Enqueue(bytes)
                            : platform_->serial().Enqueue(bytes);
}

void MicroVm::SetConsoleSize(uint16_t columns, uint16_t rows) {
  base::MutexLock lock(&parts_mutex_);
  if (devices::virtio::Console* const console = VirtioConsole()) {
    console->SetSize(columns, rows);
  }
}

void MicroVm::ConsoleBreak() {
  base::MutexLock lock(&parts_mutex_);
  if (platform_ != nullptr) platform_->serial().SendBreak();
}

void MicroVm::ConsoleWritable() {
  base::MutexLock lock(&parts_mutex_);
  if (platform_ != nullptr) platform_->serial().OnSinkWritable();
  if (devices::virtio::Console* const console = VirtioConsole()) {
    console->OnSinkWritable();
  }
}

devices::virtio::Console* MicroVm::VirtioConsole() {
  return virtio_ == nullptr ? nullptr : virtio_->console();
}

confidential::BackendKind MicroVm::backend() const {
  base::MutexLock lock(&parts_mutex_);
  return backend_vm_.backend == nullptr ? confidential::BackendKind::kOff
                                        : backend_vm_.backend->kind();
}

std::optional<shim::Digest> MicroVm::digest() const {
  if (!measurement_.has_value()) return std::nullopt;
  return measurement_->digest;
}

uint32_t MicroVm::cpus() const {
  return static_cast<uint32_t>(Runners().size());
}

vcpu::ExitCounters::Snapshot MicroVm::counters(uint32_t cpu) const {
  const auto runners = Runners();
  return cpu < runners.size() ? runners[cpu]->counters()
                              : vcpu::ExitCounters::Snapshot();
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
  absl::Status status = broker_->FinishLaunch(staged_);
  if (!status.ok()) OnFatal(status);
}

void MicroVm::OnShimStatus(uint8_t status) {
  // Once the kernel runs the port is any guest program's, and means nothing.
  if (!measurement_.has_value() || verified_.load()) return;
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
  // A confidential guest's registers are its secrets; the status has the RIP.
  const std::string registers =
      measurement_.has_value() ? std::string() : end.registers;
  switch (end.kind) {
    case Kind::kPowerOff:
      return {VmEnd::Kind::kPowerOff, absl::OkStatus(), std::string()};
    case Kind::kReset:
      return {VmEnd::Kind::kReset, absl::OkStatus(), std::string()};
    case Kind::kStopped:
      return {VmEnd::Kind::kStopped, absl::OkStatus(), std::string()};
    case Kind::kGuestShutdown:
      return {VmEnd::Kind::kTripleFault, end.status, registers};
    case Kind::kHalted:
      return {VmEnd::Kind::kInternalError,
              absl::InternalError("a vCPU halted with nothing to wake it"),
              std::string()};
    case Kind::kError:
      break;
  }
  VmEnd::Kind kind = router_->conversion_failed() ? VmEnd::Kind::kConversion
                                                  : VmEnd::Kind::kInternalError;
  return {kind, end.status, registers};
}

void MicroVm::OnVcpuEnd(const vcpu::RunEnd& end) {
  NoteHalt();
  End(Translate(end));
}

void MicroVm::OnFatal(const absl::Status& status) {
  End({VmEnd::Kind::kConversion, status, std::string()});
}

void MicroVm::End(VmEnd end) {
  bool first = false;
  {
    base::MutexLock lock(&mutex_);
    if (!end_->has_value()) {
      first = true;
      *end_ = std::move(end);
    }
  }
  if (!first) return;
  {
    base::MutexLock lock(&parts_mutex_);
    for (const auto& runner : runners_) runner->RequestStop();
    if (broker_ != nullptr) broker_->Shutdown();
  }
  if (hooks_.on_end) hooks_.on_end();
}

}  // namespace cloister::vmm
