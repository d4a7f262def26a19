// SPDX-License-Identifier: Apache-2.0
//
// The page tables that the shim starts on and those that it builds for itself
// and the kernel: 4 levels, 2 MiB pages. Freestanding.
#ifndef CLOISTER_BOOT_SHIM_PAGE_TABLES_H_
#define CLOISTER_BOOT_SHIM_PAGE_TABLES_H_

#include <cstdint>

#include "cloister/boot/shim/layout.h"

namespace cloister::shim {

inline constexpr uint64_t kTableEntries = 512;
inline constexpr uint64_t kTableBytes = kTableEntries * 8;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;
inline constexpr uint64_t kDirectories = kHighest / kGiB;
// One PML4, and for each of the two mappings a PDPT and its page directories.
inline constexpr uint64_t kTableCount = 1 + 2 * (1 + kDirectories);
static_assert(kTableCount * kTableBytes == kTablesSize);

// Index of the PML4 entry that maps the window.
inline constexpr uint64_t kWindowIndex = kWindow >> 39;

// Fills `tables`, kTablesSize zeroed bytes that the CPU will find at physical
// address `at` with `table_bits` added: virtual x maps to x | identity_bits,
// and kWindow + x to x | window_bits, for all x below kHighest. Accessed and
// dirty are preset, so that no page walk needs to write.
constexpr void BuildPageTables(uint64_t* tables, uint64_t at,
                               uint64_t table_bits, uint64_t identity_bits,
                               uint64_t window_bits) {
  constexpr uint64_t kTableFlags = 0x23;  // Present, writable, accessed.
  constexpr uint64_t kPageFlags = 0xe3;   // And dirty, 2 MiB (SDM vol. 3, 4.5).
  constexpr uint64_t kLarge = uint64_t{2} << 20;
  uint64_t next = 1;
  for (uint64_t view = 0; view < 2; ++view) {
    uint64_t bits = view == 0 ? identity_bits : window_bits;
    uint64_t pdpt = next++;
    tables[view == 0 ? 0 : kWindowIndex] =
        (at + pdpt * kTableBytes) | table_bits | kTableFlags;
    for (uint64_t d = 0; d < kDirectories; ++d) {
      uint64_t directory = next++;
      tables[pdpt * kTableEntries + d] =
          (at + directory * kTableBytes) | table_bits | kTableFlags;
      for (uint64_t i = 0; i < kTableEntries; ++i) {
        tables[directory * kTableEntries + i] =
            (d * kGiB + i * kLarge) | bits | kPageFlags;
      }
    }
  }
}

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_PAGE_TABLES_H_
