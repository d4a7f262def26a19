// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_BOOT_TABLES_H_
#define CLOISTER_VCPU_BOOT_TABLES_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/memory/guest_address.h"

namespace cloister::vcpu {

// Selectors of BuildBootGdt, the ones of the Linux boot protocol
// (Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL").
inline constexpr uint16_t kBootCodeSelector = 0x10;
inline constexpr uint16_t kBootDataSelector = 0x18;
inline constexpr uint16_t kBootTaskSelector = 0x20;

// A GDT to place in guest memory: null, unused, flat 64-bit code, flat data and
// a 16-byte TSS descriptor of base 0. Its limit is its size - 1.
std::vector<uint8_t> BuildBootGdt();

// One piece of a guest's address space. Everything is a multiple of 2 MiB.
struct PageMapping {
  uint64_t virtual_address = 0;  // Canonical for 48 bits.
  memory::GuestAddress physical = {};
  uint64_t size = 0;
  bool encrypted = false;  // Its entries carry the C-bit.
};

struct PageTableOptions {
  // Where the bytes will be placed; page-aligned. CR3's value, less the C-bit.
  memory::GuestAddress tables = {};
  // The software or hardware C-bit; needed if anything is encrypted.
  std::optional<int> c_bit = std::nullopt;
  // Entries that point to tables carry the C-bit: the tables are private.
  bool tables_encrypted = false;
};

// Page tables are bounded so that no caller's mistake takes much host memory.
inline constexpr uint64_t kMaxPageTableBytes = 16 << 20;

// 4-level page tables of 2 MiB pages (APM vol. 2 5.3), writable, executable,
// supervisor, accessed and dirty already, as bytes for `options.tables`; the
// first page is the PML4. InvalidArgument if a mapping is empty, unaligned,
// beyond 48 bits, overlaps another, or has a physical address with the C-bit
// set; ResourceExhausted beyond kMaxPageTableBytes.
absl::StatusOr<std::vector<uint8_t>> BuildPageTables(
    const PageTableOptions& options, absl::Span<const PageMapping> mappings);

// Mappings that make virtual = physical for [0, size), of which [0, plain_size)
// stays without the C-bit and the rest carries it. For a guest without a C-bit
// pass plain_size = size.
std::vector<PageMapping> IdentityMappings(uint64_t size, uint64_t plain_size);

// The bytes BuildPageTables returns for these mappings, to reserve room first.
absl::StatusOr<uint64_t> PageTableBytes(absl::Span<const PageMapping> mappings);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_BOOT_TABLES_H_
