// SPDX-License-Identifier: Apache-2.0
//
// Finds its way through ACPI tables as an operating system does (test only).
#ifndef CLOISTER_BOOT_ACPI_READER_H_
#define CLOISTER_BOOT_ACPI_READER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// All tables that can be reached from the RSDP at `rsdp` in `memory`, which
// lies at `base`: by signature, FACS and DSDT included ("RSD " for the RSDP).
// FailedPrecondition for a wrong signature, length or checksum.
absl::StatusOr<std::map<std::string, std::vector<uint8_t>>> ReadAcpiTables(
    absl::Span<const uint8_t> memory, memory::GuestAddress base,
    memory::GuestAddress rsdp);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_ACPI_READER_H_
