// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_PCI_TRANSPORT_H_
#define CLOISTER_DEVICES_VIRTIO_PCI_TRANSPORT_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/irq_line.h"
#include "cloister/devices/pci_bar.h"
#include "cloister/devices/pci_config_space.h"
#include "cloister/devices/pci_function.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_state.h"
#include "cloister/devices/virtio/interrupt_status.h"
#include "cloister/devices/virtio/msi_sink.h"
#include "cloister/devices/virtio/msix_table.h"
#include "cloister/devices/virtio/notify_binder.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// A virtio device as a PCI function (virtio 1.3, section 4.1), modern only, all
// of whose registers lie in I/O ports: no guest access needs MMIO emulation.
// BAR 0 holds the common, interrupt status and device registers, BAR 1 a port
// for each queue's notifications. Interrupts by INTx and, given somewhere to
// send messages, by MSI-X, whose table is in memory BAR 2.
//
// Thread-safe. Interrupts from the device take one lock that no guest access
// holds for longer than a few instructions; notifications take none.
class PciTransport : public PciFunction,
                     public std::enable_shared_from_this<PciTransport>,
                     private DeviceState::Listener {
 public:
  static constexpr uint32_t kRegistersSize = 256;
  static constexpr uint32_t kNotifySize = 256;

  // What it is connected to; all outlive it.
  struct Parts {
    Bus* pio = nullptr;
    memory::SharedView* view = nullptr;
    IrqLine* irq = nullptr;
    NotifyBinder* notify = nullptr;  // null: every kick is an exit
    MsiSink* msi = nullptr;          // null: no MSI-X
    Bus* mmio = nullptr;             // only with `msi`
    base::Logger* log = &base::Logger::Null();
  };
  // Where its BARs are until the guest moves them; aligned to their sizes.
  struct Placement {
    uint16_t registers = 0;
    uint16_t notify = 0;
    uint32_t msix = 0;
    uint8_t irq_line = 0;
  };

  // AlreadyExists if the ports are taken; errors of DeviceState::Create.
  static absl::StatusOr<std::shared_ptr<PciTransport>> Create(
      std::unique_ptr<VirtioDevice> device, const Parts& parts,
      const Placement& placement, const DeviceState::Options& options);
  ~PciTransport() override;

  // Takes it off the buses, as long as these are there, and for good.
  void TakeOffBuses();

  VirtioDevice& device() { return state_->device(); }
  DeviceState::Counters counters() const { return state_->counters(); }

  void ReadPciConfig(uint32_t offset, absl::Span<uint8_t> data) override;
  void WritePciConfig(uint32_t offset, absl::Span<const uint8_t> data) override;

 private:
  // What is behind one of the port BARs.
  class Window : public BusDevice {
   public:
    Window(PciTransport& transport, int bar)
        : transport_(transport), bar_(bar) {}
    absl::string_view name() const override { return transport_.name_; }
    void Read(uint64_t offset, absl::Span<uint8_t> data) override {
      transport_.ReadBar(bar_, offset, data);
    }
    void Write(uint64_t offset, absl::Span<const uint8_t> data) override {
      transport_.WriteBar(bar_, offset, data);
    }

   private:
    PciTransport& transport_;
    const int bar_;
  };

  PciTransport(const Parts& parts, const PciIdentity& identity,
               std::string name);
  absl::Status AddBars(const Placement& placement)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AddCapabilities() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AddMsix() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void ReadBar(int bar, uint64_t offset, absl::Span<uint8_t> data)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void WriteBar(int bar, uint64_t offset, absl::Span<const uint8_t> data)
      ABSL_LOCKS_EXCLUDED(mutex_);
  uint32_t ReadCommon(uint64_t offset, size_t size)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t ReadSelectedQueue(uint64_t offset, size_t size)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteCommon(uint64_t offset, size_t size, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteSelectedQueue(uint64_t offset, size_t size, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint16_t CheckedVector(uint32_t vector) const;

  // The BAR access that the configuration access capability describes.
  struct Indirect {
    int bar = 0;
    uint64_t offset = 0;
    size_t size = 0;
  };
  std::optional<Indirect> IndirectAccess(uint32_t offset, size_t size)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Follows the command register and the BARs.
  void UpdateBars() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveBuses() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateMsix() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BindNotifications() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UnbindNotifications() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // DeviceState::Listener.
  void QueueInterrupt(uint16_t queue) override;
  void ConfigInterrupt() override;
  void ResetDone() override;

  const Parts parts_;
  const std::string name_;
  Window registers_;
  Window notify_;
  InterruptStatus interrupts_;
  std::unique_ptr<MsixTable> msix_;  // null without
  std::array<std::atomic<uint16_t>, 64> queue_vectors_;
  std::atomic<uint16_t> config_vector_{MsixTable::kNoVector};

  base::Mutex mutex_;
  PciConfigSpace config_ ABSL_GUARDED_BY(mutex_);
  uint32_t msix_capability_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t access_capability_ ABSL_GUARDED_BY(mutex_) = 0;
  PciBar registers_bar_ ABSL_GUARDED_BY(mutex_);
  PciBar notify_bar_ ABSL_GUARDED_BY(mutex_);
  std::optional<PciBar> msix_bar_ ABSL_GUARDED_BY(mutex_);
  std::vector<NotifyAddress> bound_ ABSL_GUARDED_BY(mutex_);  // by queue
  uint32_t offered_word_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t accepted_word_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t selected_ ABSL_GUARDED_BY(mutex_) = 0;

  // Its driver's side is called with mutex_ held, but for Kick.
  std::unique_ptr<DeviceState> state_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_PCI_TRANSPORT_H_
