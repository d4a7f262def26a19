// SPDX-License-Identifier: Apache-2.0
//
// The machine that a guest sees: every address, port and interrupt number that
// is the monitor's to choose. Devices and ACPI tables get theirs from here.
#ifndef CLOISTER_VMM_LAYOUT_H_
#define CLOISTER_VMM_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/boot/acpi.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/memory/guest_address.h"
#include "cloister/vmm/device_config.h"

namespace cloister::vmm {

// I/O ports. 0xCF8-0xCFF stay free for PCI configuration.
inline constexpr uint16_t kCom1Port = 0x3f8;
inline constexpr uint16_t kRtcPort = 0x70;
inline constexpr uint16_t kKeyboardDataPort = 0x60;
inline constexpr uint16_t kKeyboardCommandPort = 0x64;
inline constexpr uint16_t kSystemControlPortA = 0x92;
inline constexpr uint16_t kAcpiPmPort = 0x600;
// One byte each, written by the guest: boot progress, and what the launch shim
// found.
inline constexpr uint16_t kBootMarkerPort = 0x3f0;

// ISA interrupts, which are 8259 inputs and, with an IOAPIC, its pins.
inline constexpr uint32_t kKeyboardIrq = 1;
inline constexpr uint32_t kCom1Irq = 4;
inline constexpr uint32_t kSciIrq = 9;

// RAM ends here at the latest below 4 GiB: above are the IOAPIC, the local
// APICs, KVM's own pages and device windows.
inline constexpr uint64_t kHoleStart = 0xc0000000;
inline constexpr uint64_t kFourGiB = uint64_t{1} << 32;
// Three pages that KVM needs on Intel (KVM_SET_TSS_ADDR), and the identity map
// page below them.
inline constexpr uint64_t kTssAddress = 0xfffbd000;
inline constexpr uint64_t kIdentityMapAddress = 0xfffbc000;

// The low MiB: one memory in both views of a confidential guest.
inline constexpr uint64_t kLowMemoryEnd = uint64_t{1} << 20;

// The value that /init writes to kBootMarkerPort.
inline constexpr uint8_t kInitReached = 123;

// Virtio devices on PCI: two windows of ports each, a page for an MSI-X table,
// a line that several may share.
inline constexpr uint16_t kPciIoFirst = 0x1000;
inline constexpr uint16_t kPciIoLast = 0xefff;
inline constexpr uint64_t kPciMemory = 0xd0000000;
inline constexpr uint64_t kPciMemorySize = uint64_t{16} << 20;
struct VirtioPciPlace {
  uint16_t registers = 0;
  uint16_t notify = 0;
  uint32_t msix = 0;
  uint32_t gsi = 0;
};
// `slot` is 1 to 31.
VirtioPciPlace PlaceVirtioPci(int slot, bool io_apic);

// Virtio devices behind memory-mapped registers: a page each.
inline constexpr uint64_t kVirtioMmioFirst = 0xd2000000;
struct VirtioMmioPlace {
  uint64_t address = 0;
  uint32_t gsi = 0;
};
// `index` is below kMaxVirtioDevices.
VirtioMmioPlace PlaceVirtioMmio(size_t index, bool io_apic);

// RAM ranges for `bytes` of memory: from 0 up to the hole, the rest from 4 GiB.
absl::StatusOr<std::vector<memory::GuestRange>> RamRanges(uint64_t bytes);

// The ACPI description of this machine. `io_apic`: with one, or the 8259 alone
// (which needs no MMIO at all).
boot::AcpiOptions MakeAcpiOptions(std::vector<uint32_t> apic_ids, bool io_apic);

// Whether the guest is told of the IOAPIC. A confidential guest has no way to
// have its accesses emulated everywhere, and the 8259 needs port I/O alone; but
// a device tree can name no interrupt of an 8259.
constexpr bool UsesIoApic(VirtioTransport transport, bool confidential) {
  return !confidential || transport == VirtioTransport::kMmioFdt;
}

// The device tree of this machine, which stands for the ACPI description and
// announces `config`.
absl::StatusOr<std::vector<uint8_t>> MakeDeviceTree(
    std::vector<uint32_t> apic_ids, const DevicesConfig& config);

// Adds what announces `config` to the guest. With PCI that is the root, the
// same for any number of devices.
absl::Status AddVirtio(const DevicesConfig& config, boot::AcpiOptions& acpi);

// Whether a guest's PCI devices offer MSI-X, whose table is in memory: where
// its MMIO can be emulated, and, as the launch digest says what the guest sees
// of its devices and is known before the host is, a confidential guest's only
// with a backend that was asked for by name.
bool OffersMsiX(confidential::BackendChoice choice, bool is_confidential);

// A stretch of the address space with registers in it.
struct RegisterWindow {
  std::string name;
  memory::GuestRange range;
};
// Those of a guest with the devices of `config`, in ascending order: PCI's
// memory if devices have registers there (`msi_x`), or virtio-mmio, the IOAPIC
// if the guest knows of one, and what every VM has of KVM.
std::vector<RegisterWindow> RegisterWindows(const DevicesConfig& config,
                                            confidential::BackendKind kind,
                                            bool msi_x);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_LAYOUT_H_
