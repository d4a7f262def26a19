// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/virtio_devices.h"

#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/vmm/layout.h"
#include "cloister/vmm/virtio_factory.h"

namespace cloister::vmm {

using devices::PciRoot;
using devices::virtio::DeviceState;
using devices::virtio::MmioTransport;
using devices::virtio::PciTransport;
using devices::virtio::VirtioDevice;

VirtioDevices::VirtioDevices(Parts parts)
    : parts_(std::move(parts)), notify_(*parts_.vm), msi_(*parts_.vm) {}

absl::StatusOr<std::unique_ptr<VirtioDevices>> VirtioDevices::Create(
    const DevicesConfig& config, Parts parts) {
  VirtioFactoryOptions options;
  options.on_thread_start = parts.on_thread_start;
  options.log = parts.log;
  options.balloon_pages = parts.balloon_pages.get();
  options.ram = parts.ram;
  options.console = parts.console;
  options.on_console_room = parts.on_console_room;
  VirtioControl control;
  options.control = &control;
  ASSIGN_OR_RETURN(auto devices, CreateVirtioDevices(config, options));
  std::unique_ptr<VirtioDevices> virtio(new VirtioDevices(std::move(parts)));
  virtio->control_ = std::move(control);
  virtio->packed_rings_ = config.packed_rings;
  if (devices.empty()) return virtio;
  absl::Status added =
      config.transport == VirtioTransport::kPci
          ? virtio->AddToPci(std::move(devices))
          : virtio->AddToMmio(
                std::move(devices),
                UsesIoApic(config.transport, virtio->parts_.confidential));
  if (!added.ok()) {
    virtio->TakeOffBuses();
    return added;
  }
  return virtio;
}

// What a bus keeps alive must not meet the end of what it holds on to here.
void VirtioDevices::TakeOffBuses() {
  for (const auto& transport : pci_) transport->TakeOffBuses();
  for (size_t i = 0; i < mmio_.size(); ++i) {
    parts_.mmio->Remove(PlaceVirtioMmio(i, /*io_apic=*/true).address)
        .IgnoreError();  // it was put there
  }
}

DeviceState::Options VirtioDevices::StateOptions() const {
  DeviceState::Options options;
  options.require_access_platform = parts_.confidential;
  if (!packed_rings_) {
    options.ring_features &= ~devices::virtio::kFeatureRingPacked;
  }
  return options;
}

absl::Status VirtioDevices::AddToPci(
    std::vector<std::unique_ptr<VirtioDevice>> devices) {
  auto root = std::make_shared<PciRoot>();
  for (size_t i = 0; i < devices.size(); ++i) {
    const int slot = static_cast<int>(i) + 1;
    const VirtioPciPlace place = PlaceVirtioPci(slot, !parts_.confidential);
    PciTransport::Parts parts;
    parts.pio = parts_.pio;
    parts.view = parts_.view;
    parts.irq = &Line(place.gsi);
    parts.notify = &notify_;
    if (parts_.msi_x) {
      parts.msi = &msi_;
      parts.mmio = parts_.mmio;
    }
    parts.log = parts_.log;
    PciTransport::Placement placement;
    placement.registers = place.registers;
    placement.notify = place.notify;
    placement.msix = place.msix;
    placement.irq_line = static_cast<uint8_t>(place.gsi);
    ASSIGN_OR_RETURN(std::shared_ptr<PciTransport> transport,
                     PciTransport::Create(std::move(devices[i]), parts,
                                          placement, StateOptions()));
    pci_.push_back(transport);
    RETURN_IF_ERROR(root->Add(slot, std::move(transport)));
  }
  return parts_.pio->Insert(PciRoot::kPort, PciRoot::kPortCount, root);
}

absl::Status VirtioDevices::AddToMmio(
    std::vector<std::unique_ptr<VirtioDevice>> devices, bool io_apic) {
  for (size_t i = 0; i < devices.size(); ++i) {
    const VirtioMmioPlace place = PlaceVirtioMmio(i, io_apic);
    MmioTransport::Parts parts;
    parts.view = parts_.view;
    parts.irq = &Line(place.gsi);
    parts.notify = &notify_;
    parts.log = parts_.log;
    ASSIGN_OR_RETURN(std::shared_ptr<MmioTransport> transport,
                     MmioTransport::Create(std::move(devices[i]), parts,
                                           place.address, StateOptions()));
    RETURN_IF_ERROR(
        parts_.mmio->Insert(place.address, MmioTransport::kSize, transport));
    mmio_.push_back(std::move(transport));
  }
  return absl::OkStatus();
}

devices::IrqLine& VirtioDevices::Line(uint32_t gsi) {
  auto [wire, added] = wires_.try_emplace(gsi, *parts_.vm, gsi);
  return wire->second.shared.Add();
}

std::vector<DeviceCounters> VirtioDevices::counters() const {
  std::vector<DeviceCounters> all = control_.counters();
  for (size_t i = 0; i < all.size(); ++i) {
    AddTransportCounters(
        i < pci_.size() ? pci_[i]->counters() : mmio_[i]->counters(),
        &all[i].counters);
  }
  return all;
}

}  // namespace cloister::vmm
