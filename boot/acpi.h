// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_ACPI_H_
#define CLOISTER_BOOT_ACPI_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/acpi_options.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// All tables in one block that is meant for the address it was built for.
struct AcpiTables {
  // A whole number of pages; all of it belongs into an e820 kAcpi range.
  std::vector<uint8_t> bytes = {};
  memory::GuestAddress rsdp;
};

// Builds RSDP (revision 2), XSDT, FADT (6.5, not hardware-reduced), FACS, DSDT
// and MADT to be placed at `base`, which must be page-aligned. The length does
// not depend on `base`, and the bytes depend on nothing but the arguments.
// InvalidArgument for options no table can express.
absl::StatusOr<AcpiTables> BuildAcpiTables(const AcpiOptions& options,
                                           memory::GuestAddress base);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_ACPI_H_
