// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/acpi_dsdt.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cloister/base/status_macros.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {
namespace {

constexpr size_t kMaximumSerialPorts = 4;
constexpr size_t kMaximumVirtioMmio = 256;
constexpr uint64_t kMaximumRegisters = 1 << 20;
// No x86 processor has more physical address bits.
constexpr uint64_t kAddressSpace = uint64_t{1} << 52;
// A package counts its elements in one byte.
constexpr size_t kMaximumPciInterrupts = 255;
constexpr uint16_t kPciConfigPort = 0xcf8;
constexpr uint8_t kPciConfigLength = 8;
constexpr uint8_t kSerialLength = 8;
constexpr uint32_t kLegacyInterrupts = 16;
// Global system interrupts fit the 8-bit irq numbers of nothing else, but no
// IOAPIC that KVM offers comes near this.
constexpr uint32_t kMaximumGsi = 4095;

absl::Status Invalid(absl::string_view what, absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("ACPI: ", what, ": ", problem));
}

absl::Status CheckGsi(const AcpiOptions& options, absl::string_view what,
                      uint32_t gsi) {
  uint32_t last = options.io_apic ? kMaximumGsi : kLegacyInterrupts - 1;
  if (gsi <= last) return absl::OkStatus();
  return Invalid(what,
                 absl::StrCat("interrupt ", gsi,
                              " cannot be delivered; the highest is ", last));
}

absl::Status CheckPci(const AcpiOptions& options, const AcpiPciRoot& pci) {
  if (pci.io_first > pci.io_last) {
    return Invalid("PCI root", "the I/O window ends before it starts");
  }
  if (pci.io_first < kPciConfigPort + kPciConfigLength &&
      pci.io_last >= kPciConfigPort) {
    return Invalid("PCI root", "the I/O window covers the ports 0xCF8-0xCFF");
  }
  if (pci.interrupts.size() > kMaximumPciInterrupts) {
    return Invalid("PCI root", absl::StrCat(pci.interrupts.size(),
                                            " interrupt routes, more than ",
                                            kMaximumPciInterrupts));
  }
  for (const memory::GuestRange& range : pci.memory) {
    if (range.last().value() >= kAddressSpace) {
      return Invalid("PCI root",
                     absl::StrCat("memory window ", range.ToString(),
                                  " lies above the 52-bit address space"));
    }
  }
  std::set<std::pair<uint8_t, uint8_t>> seen;
  for (const AcpiPciInterrupt& route : pci.interrupts) {
    std::string what =
        absl::StrCat("PCI device ", route.device, " pin ", route.pin);
    if (route.device > 31 || route.pin > 3) {
      return Invalid(what, "no such device or pin");
    }
    if (!seen.emplace(route.device, route.pin).second) {
      return Invalid(what, "is routed twice");
    }
    RETURN_IF_ERROR(CheckGsi(options, what, route.gsi));
  }
  return absl::OkStatus();
}

aml::Code PciInterrupts(const std::vector<AcpiPciInterrupt>& interrupts) {
  std::vector<aml::Code> routes;
  for (const AcpiPciInterrupt& route : interrupts) {
    // A link of 0 makes the fourth element the interrupt itself.
    routes.push_back(aml::Package(
        {aml::Integer(uint64_t{route.device} << 16 | 0xffff),
         aml::Integer(route.pin), aml::Integer(0), aml::Integer(route.gsi)}));
  }
  return aml::Package(routes);
}

aml::Code PciRoot(const AcpiPciRoot& pci) {
  aml::Code resources = aml::Concat({aml::BusRange(0, pci.last_bus),
                                     aml::Io(kPciConfigPort, kPciConfigLength),
                                     aml::IoWindow(pci.io_first, pci.io_last)});
  for (const memory::GuestRange& range : pci.memory) {
    resources =
        aml::Concat({resources, aml::MemoryRange(range.start().value(),
                                                 range.last().value(), true)});
  }
  return aml::Device("PCI0",
                     aml::Concat({
                         aml::Name("_HID", aml::EisaId("PNP0A03")),
                         aml::Name("_UID", aml::Integer(0)),
                         aml::Name("_BBN", aml::Integer(0)),
                         aml::Name("_SEG", aml::Integer(0)),
                         aml::Name("_CRS", aml::ResourceTemplate(resources)),
                         aml::Name("_PRT", PciInterrupts(pci.interrupts)),
                     }));
}

aml::Code SerialPort(size_t index, const AcpiSerialPort& serial) {
  return aml::Device(
      absl::StrCat("COM", index + 1),
      aml::Concat({aml::Name("_HID", aml::EisaId("PNP0501")),
                   aml::Name("_UID", aml::Integer(index + 1)),
                   aml::Name("_CRS", aml::ResourceTemplate(aml::Concat(
                                         {aml::Io(serial.port, kSerialLength),
                                          aml::Irq(serial.irq)})))}));
}

aml::Code Clock() {
  return aml::Device(
      "RTC0",
      aml::Concat({aml::Name("_HID", aml::EisaId("PNP0B00")),
                   aml::Name("_CRS", aml::ResourceTemplate(aml::Concat(
                                         {aml::Io(0x70, 2), aml::Irq(8)})))}));
}

aml::Code VirtioMmio(size_t index, const AcpiVirtioMmio& device) {
  uint64_t first = device.registers.start().value();
  uint64_t last = device.registers.last().value();
  aml::Code memory =
      last <= UINT32_MAX
          ? aml::Memory32(static_cast<uint32_t>(first),
                          static_cast<uint32_t>(device.registers.size()))
          : aml::MemoryRange(first, last, false);
  return aml::Device(
      absl::StrFormat("VR%02X", index),
      aml::Concat(
          {aml::Name("_HID", aml::String("LNRO0005")),
           aml::Name("_UID", aml::Integer(index)),
           aml::Name("_CCA", aml::Integer(1)),
           aml::Name("_CRS", aml::ResourceTemplate(aml::Concat(
                                 {memory, aml::Interrupt(device.gsi,
                                                         device.level)})))}));
}

}  // namespace

absl::Status CheckDsdtOptions(const AcpiOptions& options) {
  if (options.serial_ports.size() > kMaximumSerialPorts) {
    return Invalid("serial ports",
                   absl::StrCat("more than ", kMaximumSerialPorts));
  }
  for (const AcpiSerialPort& serial : options.serial_ports) {
    if (serial.port > UINT16_MAX - (kSerialLength - 1)) {
      return Invalid("serial port", "the ports wrap");
    }
    if (serial.irq >= kLegacyInterrupts) {
      return Invalid("serial port",
                     absl::StrCat("IRQ ", serial.irq, " is not a legacy one"));
    }
  }
  if (options.virtio_mmio.size() > kMaximumVirtioMmio) {
    return Invalid("virtio-mmio devices",
                   absl::StrCat("more than ", kMaximumVirtioMmio));
  }
  for (const AcpiVirtioMmio& device : options.virtio_mmio) {
    std::string what =
        absl::StrCat("virtio-mmio device at ", device.registers.ToString());
    RETURN_IF_ERROR(CheckGsi(options, what, device.gsi));
    if (device.registers.size() > kMaximumRegisters) {
      return Invalid(what, "too many registers");
    }
  }
  return options.pci ? CheckPci(options, *options.pci) : absl::OkStatus();
}

aml::Code BuildDsdtCode(const AcpiOptions& options) {
  aml::Code devices;
  if (options.pci) devices = PciRoot(*options.pci);
  for (size_t i = 0; i < options.serial_ports.size(); ++i) {
    devices = aml::Concat({devices, SerialPort(i, options.serial_ports[i])});
  }
  if (options.rtc) devices = aml::Concat({devices, Clock()});
  for (size_t i = 0; i < options.virtio_mmio.size(); ++i) {
    devices = aml::Concat({devices, VirtioMmio(i, options.virtio_mmio[i])});
  }
  aml::Code sleep = aml::Integer(options.s5_sleep_type);
  aml::Code soft_off = aml::Name(
      "_S5_", aml::Package({sleep, sleep, aml::Integer(0), aml::Integer(0)}));
  return aml::Concat({soft_off, aml::Scope("\\_SB_", devices)});
}

}  // namespace cloister::boot
