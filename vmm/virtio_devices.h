// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_VIRTIO_DEVICES_H_
#define CLOISTER_VMM_VIRTIO_DEVICES_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/log.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/pci_root.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/virtio/balloon_pages.h"
#include "cloister/devices/virtio/console.h"
#include "cloister/devices/virtio/device_state.h"
#include "cloister/devices/virtio/mmio_transport.h"
#include "cloister/devices/virtio/pci_transport.h"
#include "cloister/kvm/vm.h"
#include "cloister/memory/shared_view.h"
#include "cloister/vmm/device_config.h"
#include "cloister/vmm/device_control.h"
#include "cloister/vmm/kvm_irq_line.h"
#include "cloister/vmm/kvm_virtio.h"
#include "cloister/vmm/shared_irq_line.h"
#include "cloister/vmm/virtio_control.h"

namespace cloister::vmm {

// The virtio devices of a VM on their buses, with what connects them to KVM.
// Where they are and what interrupts them is vmm/layout's to say, as for the
// tables that the guest reads.
class VirtioDevices {
 public:
  // All outlive this, but for the buses, which go first: they keep their
  // devices alive for as long as a vCPU is in one.
  struct Parts {
    const kvm::Vm* vm = nullptr;
    devices::Bus* pio = nullptr;
    devices::Bus* mmio = nullptr;
    memory::SharedView* view = nullptr;
    base::Logger* log = &base::Logger::Null();
    bool confidential = false;
    bool msi_x = true;  // OffersMsiX
    std::function<void()> on_thread_start;
    // For a balloon; owned by the devices.
    std::unique_ptr<devices::virtio::BalloonPages> balloon_pages;
    uint64_t ram = 0;  // bytes
    // For a console: where its output goes, and what is called when it takes
    // input again.
    devices::SerialSink* console = nullptr;
    std::function<void()> on_console_room;
  };

  // Errors of CreateVirtioDevices, AlreadyExists if a place on a bus is taken;
  // then, or without devices, nothing of this is on any bus.
  static absl::StatusOr<std::unique_ptr<VirtioDevices>> Create(
      const DevicesConfig& config, Parts parts);
  VirtioDevices(const VirtioDevices&) = delete;
  VirtioDevices& operator=(const VirtioDevices&) = delete;

  // As long as this.
  DeviceControl& control() { return control_; }
  // Null without one; as long as this.
  devices::virtio::Console* console() { return control_.console(); }
  // Of devices and their transports. Any thread; does not wait.
  std::vector<DeviceCounters> counters() const;

 private:
  explicit VirtioDevices(Parts parts);

  absl::Status AddToPci(
      std::vector<std::unique_ptr<devices::virtio::VirtioDevice>> devices);
  absl::Status AddToMmio(
      std::vector<std::unique_ptr<devices::virtio::VirtioDevice>> devices,
      bool io_apic);
  void TakeOffBuses();
  devices::virtio::DeviceState::Options StateOptions() const;
  // One more end of the line to `gsi`.
  devices::IrqLine& Line(uint32_t gsi);

  struct Wire {
    Wire(const kvm::Vm& vm, uint32_t gsi)
        : line(vm, kvm::Gsi(gsi)), shared(line) {}
    KvmIrqLine line;
    SharedIrqLine shared;
  };

  const Parts parts_;
  bool packed_rings_ = true;
  KvmNotifyBinder notify_;
  KvmMsiSink msi_;
  std::map<uint32_t, Wire> wires_;  // by GSI
  // The devices, in order, on one bus or the other.
  std::vector<std::shared_ptr<devices::virtio::PciTransport>> pci_;
  std::vector<std::shared_ptr<devices::virtio::MmioTransport>> mmio_;
  VirtioControl control_;
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_VIRTIO_DEVICES_H_
