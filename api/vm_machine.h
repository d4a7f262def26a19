// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_VM_MACHINE_H_
#define CLOISTER_API_VM_MACHINE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/api/machine.h"
#include "cloister/api/serial_file.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/serial.h"
#include "cloister/vmm/boot_timer.h"
#include "cloister/vmm/config.h"
#include "cloister/vmm/micro_vm.h"

namespace cloister::api {

// A vmm::MicroVm as the controller's machine. Thread-safe.
class VmMachine : public Machine {
 public:
  struct Options {
    std::string id;
    // As vmm::BuildVm takes them; console is where the console's output goes
    // unless PUT /serial names a file, or machine-config says none.
    vmm::VmHooks hooks;
    // Called once Start has built a VM and opened what it needs, before its
    // guest runs: the place to give rights up. An error ends the start.
    std::function<absl::Status()> before_start = nullptr;
    // For tests of what follows when it fails; null: MicroVm::Start.
    std::function<absl::Status(vmm::MicroVm&)> start = nullptr;
  };
  explicit VmMachine(Options options);
  // Stops the VM.
  ~VmMachine() override;

  // Shows a VM that somebody else has built and will start, and that outlives
  // this object, as does the file of its serial port, if it has one.
  void Adopt(vmm::MicroVm* vm, const vmm::VmConfig& config,
             const SerialFile* serial = nullptr);

  absl::Status Start(const Json& config) override;
  absl::Status Pause() override;
  absl::Status Resume() override;
  absl::StatusOr<uint64_t> Convert(
      absl::Span<const memory::GuestRange> ranges, memory::PageState to,
      memory::HostConversionReason reason) override;
  absl::Status Update(DeviceKind kind, absl::string_view id,
                      const Json& change) override;
  absl::StatusOr<Json> BalloonStatistics() override;
  absl::Status SetPolicy(const Json& policy) override;
  absl::StatusOr<std::string> Measurement(const Json& config) override;
  absl::Status Press(Button button) override;
  void Stop() override;
  void LookAtMemory() override;
  MachineStats Stats() override;
  const memory::PageStateMap* states() override;
  std::string Backend() override;
  std::vector<AddressWindow> Windows() override;

  // For the end of the process: no guest starts any more, the one that runs is
  // stopped, and a start that is under way is waited for. Start is Cancelled
  // from then on. Any thread but that of Start.
  void Close();

  // The VM once it is started, else null; stays until this object goes.
  vmm::MicroVm* vm();

 private:
  class NullSink;
  absl::Status OpenSerial(const Json& config, vmm::VmHooks* hooks);
  absl::StatusOr<std::unique_ptr<vmm::MicroVm>> StartUnseen(
      const Json& config, const vmm::VmConfig& vm_config);
  absl::Status CheckOpen();
  void OnEnd();

  const Options options_;
  const std::unique_ptr<NullSink> nowhere_;
  std::unique_ptr<SerialFile> serial_;  // before the VM that writes to it
  base::Mutex mutex_;
  std::vector<std::unique_ptr<vmm::MicroVm>> owned_ ABSL_GUARDED_BY(mutex_);
  vmm::MicroVm* vm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  base::CondVar start_over_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool starting_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // while starting
  const SerialFile* shown_serial_ ABSL_GUARDED_BY(mutex_) = nullptr;
  vmm::VmConfig config_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::api

#endif  // CLOISTER_API_VM_MACHINE_H_
