// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_E820_H_
#define CLOISTER_BOOT_E820_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// Address range types of ACPI 6.5, section 15 (INT 15h E820h).
enum class E820Type : uint32_t {
  kRam = 1,
  kReserved = 2,
  // RAM that holds ACPI tables. Confidential Linux maps this type encrypted,
  // and kReserved not, so private ACPI tables must lie in it.
  kAcpi = 3,
  kNvs = 4,
};

struct E820Entry {
  memory::GuestRange range;
  E820Type type;

  bool operator==(const E820Entry&) const = default;
};

// Where the 640 KiB of conventional memory end, less 1 KiB for the extended
// BIOS data area, and where memory starts again. Nothing between the two is
// ever usable by Linux.
inline constexpr uint64_t kLowMemoryEnd = 0x9fc00;
inline constexpr uint64_t kHighMemoryStart = 0x100000;
inline constexpr uint64_t kFourGiB = uint64_t{1} << 32;

// A guest's physical address space as its loader sees it.
struct MemoryLayout {
  // RAM slots, page-aligned and disjoint, the first one starting at 0.
  std::vector<memory::GuestRange> ram = {};
  // Disjoint ranges that the loader must not place anything in, and what the
  // kernel is told about them. kRam: free for the kernel once it runs (a launch
  // shim). Others may lie outside of `ram` as well.
  std::vector<E820Entry> reserved = {};
};

// The RAM ranges of a guest with `bytes` of RAM: below `hole`, and the rest
// from 4 GiB on. `hole` is where 32-bit devices live: it starts at 1 MiB or
// above and ends at 4 GiB. InvalidArgument if `bytes` is 0, not a multiple of
// the page size, less than 2 MiB or more than the address space holds.
absl::StatusOr<std::vector<memory::GuestRange>> SplitRam(
    uint64_t bytes, const memory::GuestRange& hole);

// InvalidArgument, saying which range, unless `layout` is as described there.
absl::Status ValidateLayout(const MemoryLayout& layout);

// Where pieces of a launch image may go: RAM from 1 MiB on, less reservations.
// (The low 1 MiB of a confidential guest is never private.)
absl::StatusOr<std::vector<memory::GuestRange>> UsableRanges(
    const MemoryLayout& layout);

// The e820 table: RAM without the hole below 1 MiB, with reservations and then
// `extra` (the loader's own, such as the ACPI tables) put over it. Sorted,
// disjoint, neighbours of one type joined.
absl::StatusOr<std::vector<E820Entry>> BuildE820(
    const MemoryLayout& layout, const std::vector<E820Entry>& extra);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_E820_H_
