// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/vm_machine.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/all_or_none.h"
#include "cloister/api/device_update.h"
#include "cloister/api/vm_config.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/confidential/measurement.h"
#include "cloister/confidential/measurement_json.h"
#include "cloister/devices/bus.h"
#include "cloister/vcpu/exit_counters.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/launch_plan.h"
#include "cloister/vmm/layout.h"

namespace cloister::api {
namespace {

// How long a request may wait for a look at the guest's memory.
constexpr std::chrono::milliseconds kLookFor(20);

using memory::GuestAddress;
using memory::GuestRange;

absl::Status NotStarted() {
  return absl::FailedPreconditionError("the VM has not been started");
}

absl::Status NotConfidential() {
  return absl::FailedPreconditionError(
      "backend: off; only confidential guests have a launch digest");
}

CounterGroup ExitsOf(uint32_t cpu, const vcpu::ExitCounters::Snapshot& exits) {
  CounterGroup group{absl::StrCat(cpu), {}};
  for (size_t i = 0; i < vcpu::kExitKinds; ++i) {
    const auto kind = static_cast<vcpu::ExitKind>(i);
    group.counters.emplace_back(std::string(vcpu::ExitKindName(kind)),
                                exits[kind]);
  }
  return group;
}

void AddWindow(std::string name, uint64_t start, uint64_t size,
               std::vector<AddressWindow>* windows) {
  auto range = GuestRange::Create(GuestAddress(start), size);
  if (range.ok()) windows->push_back({std::move(name), *range});
}

}  // namespace

// Nobody listens.
class VmMachine::NullSink : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    return bytes.size();
  }
};

VmMachine::VmMachine(Options options)
    : options_(std::move(options)), nowhere_(std::make_unique<NullSink>()) {}

VmMachine::~VmMachine() {
  std::vector<std::unique_ptr<vmm::MicroVm>> vms;
  {
    base::MutexLock lock(&mutex_);
    vms = std::move(owned_);
  }
  vms.clear();
}

void VmMachine::Adopt(vmm::MicroVm* vm, const vmm::VmConfig& config,
                      const SerialFile* serial) {
  base::MutexLock lock(&mutex_);
  vm_ = vm;
  config_ = config;
  shown_serial_ = serial;
}

absl::Status VmMachine::OpenSerial(const Json& config, vmm::VmHooks* hooks) {
  if (ConsoleOf(config) == "none") hooks->console = nowhere_.get();
  if (!config.contains("serial")) return absl::OkStatus();
  ASSIGN_OR_RETURN(serial_, SerialFile::Open(config["serial"]));
  if (serial_ != nullptr) hooks->console = serial_.get();
  return absl::OkStatus();
}

absl::Status VmMachine::Start(const Json& config) {
  ASSIGN_OR_RETURN(vmm::VmConfig vm_config,
                   VmConfigFromJson(config, options_.id));
  {
    base::MutexLock lock(&mutex_);
    starting_ = true;
  }
  absl::StatusOr<std::unique_ptr<vmm::MicroVm>> vm =
      StartUnseen(config, vm_config);
  if (!vm.ok()) serial_.reset();
  bool ended = false;
  {
    base::MutexLock lock(&mutex_);
    starting_ = false;
    start_over_.SignalAll();
    std::swap(ended, ended_);
    if (!vm.ok()) return vm.status();
    vm_ = vm->get();
    owned_.push_back(*std::move(vm));
    shown_serial_ = serial_.get();
    config_ = std::move(vm_config);
  }
  // What its hooks could not hand on while nobody knew of it.
  vmm::MicroVm* machine = this->vm();
  machine->ConsoleWritable();
  if (ended && options_.hooks.on_end) options_.hooks.on_end();
  return absl::OkStatus();
}

// Nobody sees the VM before it runs, so one that does not start can go, with
// all that it has opened.
absl::StatusOr<std::unique_ptr<vmm::MicroVm>> VmMachine::StartUnseen(
    const Json& config, const vmm::VmConfig& vm_config) {
  RETURN_IF_ERROR(CheckOpen());
  vmm::VmHooks hooks = options_.hooks;
  hooks.on_end = [this] { OnEnd(); };
  RETURN_IF_ERROR(OpenSerial(config, &hooks));
  ASSIGN_OR_RETURN(std::unique_ptr<vmm::MicroVm> vm,
                   vmm::BuildVm(vm_config, hooks));
  if (options_.before_start) RETURN_IF_ERROR(options_.before_start());
  RETURN_IF_ERROR(CheckOpen());
  RETURN_IF_ERROR(options_.start ? options_.start(*vm) : vm->Start());
  return vm;
}

absl::Status VmMachine::CheckOpen() {
  base::MutexLock lock(&mutex_);
  return closed_ ? absl::CancelledError("the monitor is about to end")
                 : absl::OkStatus();
}

// The end of a VM that is being started is nobody's business until it has
// been.
void VmMachine::OnEnd() {
  {
    base::MutexLock lock(&mutex_);
    if (starting_) {
      ended_ = true;
      return;
    }
  }
  if (options_.hooks.on_end) options_.hooks.on_end();
}

absl::Status VmMachine::Pause() {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  machine->Pause();
  return absl::OkStatus();
}

absl::Status VmMachine::Resume() {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  machine->Resume();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> VmMachine::Convert(
    absl::Span<const GuestRange> ranges, memory::PageState to,
    memory::HostConversionReason reason) {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  if (machine->broker() == nullptr) {
    return absl::FailedPreconditionError("this guest has no private memory");
  }
  return ConvertAllOrNone(*machine->broker(), machine->states(), ranges, to,
                          reason);
}

absl::Status VmMachine::Update(DeviceKind kind, absl::string_view id,
                               const Json& change) {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  return machine->ChangeDevices([&](vmm::DeviceControl& devices) {
    return UpdateDevice(devices, kind, id, change);
  });
}

absl::StatusOr<Json> VmMachine::BalloonStatistics() {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  Json json;
  RETURN_IF_ERROR(
      machine->ChangeDevices([&](vmm::DeviceControl& devices) -> absl::Status {
        ASSIGN_OR_RETURN(json, BalloonStatisticsJson(devices));
        return absl::OkStatus();
      }));
  return json;
}

absl::Status VmMachine::SetPolicy(const Json& policy) {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  if (machine->broker() == nullptr) {
    return absl::FailedPreconditionError("this guest has no private memory");
  }
  machine->broker()->SetPolicy(PolicyFromJson(policy));
  return absl::OkStatus();
}

absl::StatusOr<std::string> VmMachine::Measurement(const Json& config) {
  if (const vmm::MicroVm* const machine = vm()) {
    if (!machine->measurement().has_value()) return NotConfidential();
    return confidential::MeasurementJson(*machine->measurement());
  }
  if (!config.contains("boot-source")) {
    return absl::FailedPreconditionError(
        "there is nothing to boot: PUT /boot-source first");
  }
  ASSIGN_OR_RETURN(const vmm::VmConfig vm_config,
                   VmConfigFromJson(config, options_.id));
  if (vm_config.confidential.backend == confidential::BackendChoice::kOff) {
    return NotConfidential();
  }
  ASSIGN_OR_RETURN(vmm::LaunchPlan plan,
                   vmm::PlanLaunch(vm_config, vmm::ConfidentialLaunch()));
  ASSIGN_OR_RETURN(confidential::MeasurementReport report,
                   confidential::Measure(*plan.shim));
  return confidential::MeasurementJson(report);
}

absl::Status VmMachine::Press(Button button) {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return NotStarted();
  if (button == Button::kPower) {
    if (machine->PressPowerButton()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        "the guest does not listen to its power button");
  }
  if (machine->PressCtrlAltDel()) return absl::OkStatus();
  return absl::FailedPreconditionError("the guest does not read its keyboard");
}

void VmMachine::Stop() {
  vmm::MicroVm* machine = vm();
  if (machine != nullptr) machine->Stop();
}

void VmMachine::Close() {
  {
    base::MutexLock lock(&mutex_);
    closed_ = true;
    while (starting_) start_over_.Wait(&mutex_);
  }
  Stop();
}

void VmMachine::LookAtMemory() {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr || machine->broker() == nullptr) return;
  // Where the kernel cannot tell what it backs, only what is known anyway
  // counts.
  machine->broker()->SurveyFor(kLookFor).IgnoreError();
}

MachineStats VmMachine::Stats() {
  MachineStats stats;
  if (options_.hooks.boot_timer != nullptr) {
    stats.boot = options_.hooks.boot_timer->Phases();
  }
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return stats;
  for (uint32_t cpu = 0; cpu < machine->cpus(); ++cpu) {
    stats.vcpus.push_back(ExitsOf(cpu, machine->counters(cpu)));
  }
  const SerialFile* file = nullptr;
  {
    base::MutexLock lock(&mutex_);
    file = shown_serial_;
  }
  const devices::Serial::Counters serial = machine->serial_counters();
  stats.devices.push_back({"serial",
                           {{"tx_bytes", serial.tx_bytes},
                            {"rx_bytes", serial.rx_bytes},
                            {"overruns", serial.overruns},
                            {"tx_dropped", serial.tx_dropped},
                            {"rate_limiter_dropped_bytes",
                             file == nullptr ? 0 : file->dropped()}}});
  for (vmm::DeviceCounters& device : machine->device_counters()) {
    stats.devices.push_back({std::move(device.name), std::move(device.counters),
                             std::move(device.sizes)});
  }
  stats.leased_bytes = machine->view().LeasedSum();
  if (machine->broker() != nullptr) {
    stats.conversions = machine->broker()->stats();
  }
  return stats;
}

const memory::PageStateMap* VmMachine::states() {
  vmm::MicroVm* machine = vm();
  return machine == nullptr ? nullptr : &machine->states();
}

std::string VmMachine::Backend() {
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return "";
  return std::string(confidential::BackendKindName(machine->backend()));
}

std::vector<AddressWindow> VmMachine::Windows() {
  std::vector<AddressWindow> windows;
  vmm::MicroVm* machine = vm();
  if (machine == nullptr) return windows;
  base::MutexLock lock(&mutex_);
  const confidential::BackendKind kind = machine->backend();
  const bool msi_x = vmm::OffersMsiX(config_.confidential.backend,
                                     kind != confidential::BackendKind::kOff);
  for (vmm::RegisterWindow& window :
       vmm::RegisterWindows(config_.devices, kind, msi_x)) {
    windows.push_back({std::move(window.name), window.range});
  }
  for (const vmm::ExtraDevice& extra : options_.hooks.extra_devices) {
    if (extra.space == devices::Bus::Space::kMmio) {
      AddWindow(std::string(extra.device->name()), extra.start, extra.size,
                &windows);
    }
  }
  for (const GuestRange& range : config_.confidential.exchange_windows) {
    windows.push_back({"exchange window", range});
  }
  return windows;
}

vmm::MicroVm* VmMachine::vm() {
  base::MutexLock lock(&mutex_);
  return vm_;
}

}  // namespace cloister::api
