// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_LINUX_FDT_H_
#define CLOISTER_BOOT_LINUX_FDT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// Registers of a virtio-mmio device and the IOAPIC pin of its level-triggered
// interrupt (virtio 1.3, section 4.2.1).
struct FdtVirtioMmio {
  memory::GuestRange registers;
  uint32_t pin = 0;
};

// What the machine looks like in a device tree. The monitor owns every number.
struct LinuxFdtOptions {
  // In vCPU order.
  std::vector<uint32_t> apic_ids;
  uint64_t local_apic = 0xfee00000;
  uint64_t io_apic = 0xfec00000;
  std::vector<FdtVirtioMmio> virtio_mmio = {};
};

// The flattened tree that x86 Linux with CONFIG_OF takes its interrupt
// controllers, processors and platform devices from, if there are no ACPI
// tables (arch/x86/kernel/devicetree.c). InvalidArgument if there is no
// processor, two have one id, or two devices have one address.
absl::StatusOr<std::vector<uint8_t>> BuildLinuxFdt(
    const LinuxFdtOptions& options);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_LINUX_FDT_H_
