// SPDX-License-Identifier: Apache-2.0
//
// Encodes the small part of ACPI Machine Language that a DSDT without methods
// needs (ACPI 6.5, chapter 20; resource descriptors: section 6.4). Every
// function returns encoded bytes to be concatenated or nested. Names have four
// characters. What cannot be encoded is the caller's to refuse beforehand.
#ifndef CLOISTER_BOOT_AML_H_
#define CLOISTER_BOOT_AML_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "absl/strings/string_view.h"

namespace cloister::boot::aml {

using Code = std::vector<uint8_t>;

// The parts in order.
Code Concat(std::initializer_list<Code> parts);

// An integer in its shortest encoding.
Code Integer(uint64_t value);
Code String(absl::string_view text);
// "PNP0A03" as the integer that EISAID("PNP0A03") stands for.
Code EisaId(absl::string_view id);
// At most 255 elements.
Code Package(const std::vector<Code>& elements);

// Name (_UID, 0)
Code Name(absl::string_view name, const Code& value);
// Scope (\_SB)
Code Scope(absl::string_view name, const Code& body);
Code Device(absl::string_view name, const Code& body);

// ResourceTemplate () around descriptors.
Code ResourceTemplate(const Code& descriptors);
// IO (Decode16, port, port, 1, length)
Code Io(uint16_t port, uint8_t length);
// IRQNoFlags () {irq}; edge-triggered, active high, irq below 16.
Code Irq(uint8_t irq);
// Interrupt (ResourceConsumer, ..., ActiveHigh, Exclusive) {gsi}
Code Interrupt(uint32_t gsi, bool level);
// Memory32Fixed (ReadWrite, base, length)
Code Memory32(uint32_t base, uint32_t length);
// WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, ...)
Code BusRange(uint8_t first, uint8_t last);
// WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, ...)
Code IoWindow(uint16_t first, uint16_t last);
// DWordMemory or QWordMemory (not cacheable, read-write), whichever holds
// `last`; a window when `producer`, else a device's own registers.
Code MemoryRange(uint64_t first, uint64_t last, bool producer);

}  // namespace cloister::boot::aml

#endif  // CLOISTER_BOOT_AML_H_
