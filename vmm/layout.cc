// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/layout.h"

#include <array>
#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/boot/e820.h"
#include "cloister/boot/linux_fdt.h"
#include "cloister/devices/acpi_pm.h"
#include "cloister/devices/virtio/mmio_transport.h"

namespace cloister::vmm {

using confidential::BackendChoice;
using confidential::BackendKind;
using confidential::MmioCanBeEmulated;
using devices::AcpiPm;
using devices::virtio::MmioTransport;
using memory::GuestAddress;
using memory::GuestRange;

absl::StatusOr<std::vector<GuestRange>> RamRanges(uint64_t bytes) {
  ASSIGN_OR_RETURN(GuestRange hole,
                   GuestRange::CreatePageAligned(GuestAddress(kHoleStart),
                                                 kFourGiB - kHoleStart));
  return boot::SplitRam(bytes, hole);
}

boot::AcpiOptions MakeAcpiOptions(std::vector<uint32_t> apic_ids,
                                  bool io_apic) {
  boot::AcpiOptions options;
  options.pm.pm1_event = kAcpiPmPort + AcpiPm::kPm1EventOffset;
  options.pm.pm1_control = kAcpiPmPort + AcpiPm::kPm1ControlOffset;
  options.pm.pm_timer = kAcpiPmPort + AcpiPm::kPmTimerOffset;
  options.pm.gpe0 = kAcpiPmPort + AcpiPm::kGpe0Offset;
  options.pm.gpe0_length = 4;
  options.sci_irq = kSciIrq;
  options.reset = boot::AcpiResetRegister{
      .port = kAcpiPmPort + AcpiPm::kResetOffset, .value = 1};
  options.i8042 = true;
  options.apic_ids = std::move(apic_ids);
  if (io_apic) options.io_apic = boot::AcpiIoApic{};
  options.serial_ports.push_back(
      boot::AcpiSerialPort{.port = kCom1Port, .irq = kCom1Irq});
  return options;
}

namespace {

// The IOAPIC's upper pins, or those 8259 inputs that no ISA device has.
uint32_t VirtioGsi(size_t index, bool io_apic) {
  constexpr std::array<uint32_t, 8> kPins = {16, 17, 18, 19, 20, 21, 22, 23};
  constexpr std::array<uint32_t, 5> kInputs = {10, 11, 5, 14, 15};
  return io_apic ? kPins[index % kPins.size()]
                 : kInputs[index % kInputs.size()];
}

}  // namespace

VirtioPciPlace PlaceVirtioPci(int slot, bool io_apic) {
  VirtioPciPlace place;
  place.registers = static_cast<uint16_t>(kPciIoFirst + slot * 0x200);
  place.notify = static_cast<uint16_t>(place.registers + 0x100);
  place.msix = static_cast<uint32_t>(kPciMemory + slot * 0x1000);
  place.gsi = VirtioGsi(slot - 1, io_apic);
  return place;
}

VirtioMmioPlace PlaceVirtioMmio(size_t index, bool io_apic) {
  return {.address = kVirtioMmioFirst + index * memory::kPageSize,
          .gsi = VirtioGsi(index, io_apic)};
}

absl::StatusOr<std::vector<uint8_t>> MakeDeviceTree(
    std::vector<uint32_t> apic_ids, const DevicesConfig& config) {
  boot::LinuxFdtOptions options;
  options.apic_ids = std::move(apic_ids);
  for (size_t i = 0; i < config.count(); ++i) {
    const VirtioMmioPlace place = PlaceVirtioMmio(i, /*io_apic=*/true);
    ASSIGN_OR_RETURN(
        GuestRange registers,
        GuestRange::Create(GuestAddress(place.address), MmioTransport::kSize));
    options.virtio_mmio.push_back({.registers = registers, .pin = place.gsi});
  }
  return boot::BuildLinuxFdt(options);
}

absl::Status AddVirtio(const DevicesConfig& config, boot::AcpiOptions& acpi) {
  if (config.count() == 0) return absl::OkStatus();
  const bool io_apic = acpi.io_apic.has_value();
  if (config.transport == VirtioTransport::kMmio) {
    for (size_t i = 0; i < config.count(); ++i) {
      const VirtioMmioPlace place = PlaceVirtioMmio(i, io_apic);
      ASSIGN_OR_RETURN(GuestRange registers,
                       GuestRange::Create(GuestAddress(place.address),
                                          MmioTransport::kSize));
      acpi.virtio_mmio.push_back(
          {.registers = registers, .gsi = place.gsi, .level = true});
    }
    return absl::OkStatus();
  }
  boot::AcpiPciRoot root;
  root.io_first = kPciIoFirst;
  root.io_last = kPciIoLast;
  // For MSI-X tables, whether there are any or not.
  ASSIGN_OR_RETURN(
      GuestRange memory,
      GuestRange::CreatePageAligned(GuestAddress(kPciMemory), kPciMemorySize));
  root.memory.push_back(memory);
  for (uint8_t slot = 1; slot <= kMaxVirtioDevices; ++slot) {
    root.interrupts.push_back(
        {.device = slot, .pin = 0, .gsi = PlaceVirtioPci(slot, io_apic).gsi});
  }
  acpi.pci = std::move(root);
  return absl::OkStatus();
}

bool OffersMsiX(BackendChoice choice, bool is_confidential) {
  if (!is_confidential) return MmioCanBeEmulated(BackendKind::kOff);
  switch (choice) {
    case BackendChoice::kEmulated:
      return MmioCanBeEmulated(BackendKind::kEmulated);
    case BackendChoice::kSwProtected:
      return MmioCanBeEmulated(BackendKind::kSwProtected);
    case BackendChoice::kAuto:
    case BackendChoice::kOff:
      break;
  }
  return false;
}

std::vector<RegisterWindow> RegisterWindows(const DevicesConfig& config,
                                            confidential::BackendKind kind,
                                            bool msi_x) {
  std::vector<RegisterWindow> windows;
  const auto add = [&](const char* name, uint64_t start, uint64_t size) {
    auto range = GuestRange::Create(GuestAddress(start), size);
    if (range.ok()) windows.push_back({name, *range});
  };
  const bool io_apic =
      UsesIoApic(config.transport, kind != confidential::BackendKind::kOff);
  if (config.count() > 0) {
    if (config.transport != VirtioTransport::kPci) {
      add("virtio-mmio", kVirtioMmioFirst, config.count() * memory::kPageSize);
    } else if (msi_x) {
      add("PCI memory", kPciMemory, kPciMemorySize);
    }
  }
  if (io_apic) add("IOAPIC", boot::AcpiIoApic{}.address, memory::kPageSize);
  add("local APICs", 0xfee00000, memory::kPageSize);
  add("KVM's pages", kIdentityMapAddress,
      kTssAddress + 3 * memory::kPageSize - kIdentityMapAddress);
  return windows;
}

}  // namespace cloister::vmm
