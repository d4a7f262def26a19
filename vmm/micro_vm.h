// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_MICRO_VM_H_
#define CLOISTER_VMM_MICRO_VM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/confidential/measurement.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/virtio/console.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"
#include "cloister/vcpu/runner.h"
#include "cloister/vmm/boot_timer.h"
#include "cloister/vmm/device_control.h"
#include "cloister/vmm/exit_router.h"
#include "cloister/vmm/platform.h"
#include "cloister/vmm/sandbox/thread_kind.h"
#include "cloister/vmm/virtio_devices.h"
#include "cloister/vmm/vm_end.h"

namespace cloister::vmm {

// A device of the application's for [start, start + size) of a bus.
struct ExtraDevice {
  devices::Bus::Space space = devices::Bus::Space::kPio;
  uint64_t start = 0;
  uint64_t size = 0;
  std::shared_ptr<devices::BusDevice> device;
};

// What a VM needs of the program it runs in. What is pointed to must outlive
// the VM. Callbacks come from the VM's threads, without locks, and must not
// block.
struct VmHooks {
  // Gets what the serial port and a virtio console write. Required.
  devices::SerialSink* console = nullptr;
  base::Logger* log = &base::Logger::Null();
  BootTimer* boot_timer = nullptr;  // may be null
  // A real-time signal with a handler that does nothing
  // (vcpu::InstallKickHandler). Several VMs may share it.
  int kick_signal = 0;
  // /dev/kvm, open already, for programs that may not open it any more when
  // they build a VM; it is duplicated, and stays the program's. -1: open it.
  int kvm_fd = -1;
  // The guest's console takes input again after a short ConsoleInput.
  std::function<void()> on_console_room;
  // The run has ended; Wait will not block for long.
  std::function<void()> on_end;
  // Runs first on each thread that the VM starts, with what it is for: the
  // place to install a seccomp filter (vmm/sandbox).
  std::function<void(ThreadKind)> on_thread_start;
  // Devices of the application's own, on the guest's buses beside the built-in
  // ones, also after a Relaunch.
  std::vector<ExtraDevice> extra_devices;
};

// A VM that BuildVm has put together: memory, devices, vCPUs. No globals:
// several may live in one process.
//
// Thread-safe, but for the references that backend parts are handed out by:
// those end with Relaunch. Start once; the destructor stops what still runs.
class MicroVm {
 public:
  ~MicroVm();
  MicroVm(const MicroVm&) = delete;
  MicroVm& operator=(const MicroVm&) = delete;

  // Starts every vCPU's thread. ResourceExhausted if the host gives no more.
  // After an error the VM has ended.
  absl::Status Start();

  // Pause returns once no vCPU runs guest code; Resume lets them go on. Pauses
  // nest: the guest runs again after as many Resumes, and a Resume too many
  // does nothing. A VM that has ended stays so.
  //
  // A conversion that is under way completes first. One that waits for its turn
  // or for the rate limit stays where it is until Resume, its vCPU in the midst
  // of the instruction that asked for it; all others stand between two
  // instructions. So Pause takes no longer than the longest conversion under
  // way. Not from a callback.
  void Pause();
  void Resume();

  // Ends the run as kStopped, if nothing else did. Does not wait.
  void Stop();
  // Waits for the end of the run, and of every thread of the VM. While a
  // Relaunch makes the VM anew, its last run is the one that has ended. Not
  // from a callback.
  VmEnd Wait();

  // After the end of a run: makes the VM as it was when it was built and starts
  // it, confidential guests through the shim again. Nothing of the old memory
  // is left, on either side. The files are read anew and must give the same
  // launch digest (FailedPrecondition). Nobody may use broker(), states() or
  // view() meanwhile. Not from a callback.
  //
  // FailedPrecondition while the VM runs or is paused; Unavailable if somebody
  // keeps a lease on a confidential guest's memory; Cancelled if Stop came
  // meanwhile; errors of BuildVm. After an error the VM stays ended, and
  // Relaunch may be tried again.
  absl::Status Relaunch();

  // True if the guest listens to its power button, and now knows of it.
  bool PressPowerButton();
  // True if the guest reads its keyboard, and gets Ctrl-Alt-Del.
  bool PressCtrlAltDel();
  // Of the serial port, since the last launch.
  devices::Serial::Counters serial_counters() const;

  // Calls `change` with the control over the VM's devices, which is gone when
  // it returns. One call at a time; a Relaunch waits for it, and makes the
  // devices as they were configured at first. Returns what `change` does;
  // FailedPrecondition between two launches. Not from a callback.
  absl::Status ChangeDevices(
      absl::FunctionRef<absl::Status(DeviceControl&)> change);
  // Of the virtio devices, in their order, since the last launch. Does not wait
  // for a ChangeDevices.
  std::vector<DeviceCounters> device_counters() const;

  // Hands input to the virtio console, without one to the serial port; returns
  // how many bytes it took. If that is not all, VmHooks::on_console_room
  // follows.
  size_t ConsoleInput(absl::Span<const uint8_t> bytes);
  // The size of the terminal, which a virtio console tells its guest.
  void SetConsoleSize(uint16_t columns, uint16_t rows);
  void ConsoleBreak();
  // The console's sink takes output again after it had refused some.
  void ConsoleWritable();

  confidential::BackendKind backend() const;
  // What the guest was launched from, and the digest of that alone; nullopt for
  // guests that are not confidential. The same for every launch.
  const std::optional<confidential::MeasurementReport>& measurement() const {
    return measurement_;
  }
  std::optional<shim::Digest> digest() const;
  // Null for guests that are not confidential. These three are others after a
  // Relaunch, and gone after one that failed.
  memory::ConversionBroker* broker() { return broker_.get(); }
  memory::PageStateMap& states() { return *states_; }
  memory::SharedView& view() { return *view_; }
  uint32_t cpus() const;
  // Since the last launch; `cpu` is below cpus().
  vcpu::ExitCounters::Snapshot counters(uint32_t cpu) const;

 private:
  friend class VmBuilder;
  friend class MicroVmPeer;  // of the test
  explicit MicroVm(VmHooks hooks);

  absl::Status StartVcpus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(start_mutex_);
  PlatformEvents Events();
  void OnShimStatus(uint8_t status);
  void OnVerified();
  void OnBootMarker(uint8_t value, std::chrono::steady_clock::time_point when);
  void OnVcpuEnd(const vcpu::RunEnd& end);
  // Says so if conversions were to be denied, and the guest never came to where
  // that begins.
  void WarnOfUnarmedDenial();
  // A vCPU has parked, ended, or begun to wait for a paused broker. Takes no
  // lock but its own.
  void NoteHalt();
  // Waits until no vCPU of a VM that was asked to pause runs guest code.
  void WaitForHalt(const std::vector<std::shared_ptr<vcpu::Runner>>& runners);
  // A page's state is uncertain.
  void OnFatal(const absl::Status& status);
  // For an ended VM: destroys the parts below, once nobody uses its memory.
  absl::Status TakeApart();
  devices::virtio::Console* VirtioConsole()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(parts_mutex_);
  // Notes the first end and stops every vCPU.
  void End(VmEnd end);
  std::vector<std::shared_ptr<vcpu::Runner>> Runners() const;
  VmEnd Translate(const vcpu::RunEnd& end) const;

  const VmHooks hooks_;
  // The builder's: fills the members below once more.
  std::function<absl::Status()> rebuild_;
  // Set once, while nobody else knows of the VM.
  std::optional<confidential::MeasurementReport> measurement_;
  // Shared pages that the shim takes over, if it will not say so itself.
  std::vector<memory::GuestRange> staged_;

  // Held from when a run has begun until its vCPUs' threads have, so that
  // nobody waits for vCPUs that are yet to start. Taken before parts_mutex_.
  base::Mutex start_mutex_;
  // Held while somebody uses the devices without parts_mutex_; taken before
  // it. They are not taken apart meanwhile.
  base::Mutex devices_mutex_;
  // Held to exchange the parts below, and to use them from other threads than
  // the VM's, which do not live through an exchange. Taken before mutex_.
  mutable base::Mutex parts_mutex_;
  // The run that has ended has no parts any more, and no other one has begun.
  bool between_runs_ ABSL_GUARDED_BY(parts_mutex_) = false;
  // In the order in which they refer to each other, destroyed in reverse.
  std::unique_ptr<memory::PageStateMap> states_;
  confidential::BackendVm backend_vm_;
  std::unique_ptr<memory::SharedView> view_;
  std::unique_ptr<memory::ConversionBroker> broker_;
  std::unique_ptr<VirtioDevices> virtio_ ABSL_GUARDED_BY(parts_mutex_);
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<ExitRouter> router_;
  std::vector<std::shared_ptr<vcpu::Runner>> runners_;

  std::atomic<bool> verified_{false};

  base::Mutex pause_mutex_;  // taken before start_mutex_ and parts_mutex_
  int pauses_ ABSL_GUARDED_BY(pause_mutex_) = 0;
  base::Mutex halt_mutex_;  // nothing else is locked under it
  base::CondVar halted_;
  uint64_t halts_ ABSL_GUARDED_BY(halt_mutex_) = 0;

  mutable base::Mutex mutex_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool relaunching_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_requested_ ABSL_GUARDED_BY(mutex_) = false;  // while relaunching
  // Of the present run; the next one has another.
  std::shared_ptr<std::optional<VmEnd>> end_ ABSL_GUARDED_BY(mutex_) =
      std::make_shared<std::optional<VmEnd>>();
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_MICRO_VM_H_
