// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_MMIO_TRANSPORT_H_
#define CLOISTER_DEVICES_VIRTIO_MMIO_TRANSPORT_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/irq_line.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_state.h"
#include "cloister/devices/virtio/interrupt_status.h"
#include "cloister/devices/virtio/notify_binder.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// A virtio device behind a window of memory-mapped registers (virtio 1.3,
// section 4.2, version 2) and a level-triggered interrupt. For guests whose
// MMIO accesses can be emulated.
//
// Linux does not wait for a reset to be done, and frees its rings and buffers
// after writing status 0. So that write waits, on the vCPU's thread, until the
// device is done with them: for kResetWait at most, after which the status
// reads as it was until the device is done, as over PCI.
//
// Thread-safe.
class MmioTransport : public BusDevice, private DeviceState::Listener {
 public:
  static constexpr uint64_t kSize = 0x200;
  static constexpr std::chrono::milliseconds kResetWait{1000};

  // What it is connected to; all outlive it.
  struct Parts {
    memory::SharedView* view = nullptr;
    IrqLine* irq = nullptr;
    NotifyBinder* notify = nullptr;  // null: every kick is an exit
    base::Logger* log = &base::Logger::Null();
  };

  // For kSize bytes at `address` of the MMIO bus, where the caller puts it.
  // Errors of DeviceState::Create.
  static absl::StatusOr<std::shared_ptr<MmioTransport>> Create(
      std::unique_ptr<VirtioDevice> device, const Parts& parts,
      uint64_t address, const DeviceState::Options& options);
  ~MmioTransport() override;

  VirtioDevice& device() { return state_->device(); }
  DeviceState::Counters counters() const { return state_->counters(); }

  absl::string_view name() const override { return name_; }
  // Registers are dwords; the configuration space behind them takes any width.
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  MmioTransport(const Parts& parts, std::string name)
      : parts_(parts), name_(std::move(name)), interrupts_(*parts.irq) {}

  void BindNotifications(uint64_t address);
  uint32_t ReadRegister(uint64_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegister(uint64_t offset, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteAddress(uint64_t offset, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // DeviceState::Listener.
  void QueueInterrupt(uint16_t) override {
    interrupts_.Raise(InterruptStatus::kQueue);
  }
  void ConfigInterrupt() override {
    interrupts_.Raise(InterruptStatus::kConfig);
  }
  void ResetDone() override {
    interrupts_.Clear(InterruptStatus::kQueue | InterruptStatus::kConfig);
  }

  const Parts parts_;
  const std::string name_;
  InterruptStatus interrupts_;
  std::vector<NotifyAddress> bound_;  // by queue

  base::Mutex mutex_;
  uint32_t offered_word_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t accepted_word_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t selected_ ABSL_GUARDED_BY(mutex_) = 0;

  // Its driver's side is called with mutex_ held, but for Kick.
  std::unique_ptr<DeviceState> state_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_MMIO_TRANSPORT_H_
