// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_ACPI_DSDT_H_
#define CLOISTER_BOOT_ACPI_DSDT_H_

#include "absl/status/status.h"
#include "cloister/boot/acpi_options.h"
#include "cloister/boot/aml.h"

namespace cloister::boot {

// InvalidArgument, naming the device, for devices in `options` that AML cannot
// describe or that could not work: ports that wrap, interrupts without a
// controller, too many devices.
absl::Status CheckDsdtOptions(const AcpiOptions& options);

// The DSDT's AML, without table header: \_S5, and \_SB with the PCI root,
// serial ports, clock and virtio-mmio devices that `options` list. `options`
// have passed CheckDsdtOptions.
aml::Code BuildDsdtCode(const AcpiOptions& options);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_ACPI_DSDT_H_
