// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_ACPI_OPTIONS_H_
#define CLOISTER_BOOT_ACPI_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// The fixed hardware registers that the FADT names (ACPI 6.5, section 4.8.3),
// all in I/O port space. The monitor's ACPI PM device must answer there.
struct AcpiPmPorts {
  uint16_t pm1_event = 0;    // 4 bytes: status, enable.
  uint16_t pm1_control = 0;  // 2 bytes.
  uint16_t pm_timer = 0;     // 4 bytes; 0: no timer.
  uint16_t gpe0 = 0;         // gpe0_length bytes; 0: no GPE block.
  uint8_t gpe0_length = 0;   // Status and enable halves together; even.
};

// The FADT's reset register: writing `value` to `port` resets the machine.
struct AcpiResetRegister {
  uint16_t port = 0;
  uint8_t value = 0;
};

struct AcpiIoApic {
  uint8_t id = 0;
  uint32_t address = 0xfec00000;
  uint32_t gsi_base = 0;
};

// A 16550 described as PNP0501.
struct AcpiSerialPort {
  uint16_t port = 0x3f8;
  uint8_t irq = 4;
};

// A virtio-mmio device described as LNRO0005. Its interrupt is edge-triggered
// unless `level`.
struct AcpiVirtioMmio {
  memory::GuestRange registers;
  uint32_t gsi = 0;
  bool level = false;
};

// One _PRT entry: INTA..INTD (pin 0..3) of a device on bus 0 raises `gsi`.
struct AcpiPciInterrupt {
  uint8_t device = 0;
  uint8_t pin = 0;
  uint32_t gsi = 0;
};

// A PCI host bridge (PNP0A03) for one bus range, configured through 0xCF8.
struct AcpiPciRoot {
  uint8_t last_bus = 0;
  // I/O ports that BARs may use; must not include 0xCF8-0xCFF.
  uint16_t io_first = 0;
  uint16_t io_last = 0;
  // Memory that BARs may use, below 4 GiB or above.
  std::vector<memory::GuestRange> memory = {};
  std::vector<AcpiPciInterrupt> interrupts = {};
};

// What the machine looks like to ACPI. The monitor owns every number.
struct AcpiOptions {
  AcpiPmPorts pm;
  uint8_t sci_irq = 9;
  // Written to SLP_TYP for soft-off (\_S5), 3 bits.
  uint8_t s5_sleep_type = 5;
  // The fixed power button (PM1 status bit 8).
  bool power_button = true;
  std::optional<AcpiResetRegister> reset = {};
  // FADT boot flag: a keyboard controller can be probed.
  bool i8042 = false;
  // A CMOS clock at 0x70 on IRQ 8 (PNP0B00).
  bool rtc = true;
  // APIC ids in vCPU order; the ACPI processor UID is the vCPU's index. Ids
  // from 255 on get x2APIC entries.
  std::vector<uint32_t> apic_ids = {};
  // Without one the guest runs the 8259 through LINT0.
  std::optional<AcpiIoApic> io_apic = {};
  std::vector<AcpiSerialPort> serial_ports = {};
  std::optional<AcpiPciRoot> pci = {};
  std::vector<AcpiVirtioMmio> virtio_mmio = {};
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_ACPI_OPTIONS_H_
