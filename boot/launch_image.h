// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_LAUNCH_IMAGE_H_
#define CLOISTER_BOOT_LAUNCH_IMAGE_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/boot/shared_bytes.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// What a piece is. The numbers enter the launch measurement: never reuse or
// renumber one.
enum class PieceType : uint32_t {
  kKernelSegment = 1,
  kInitrd = 2,
  kCommandLine = 3,
  kBootParams = 4,
  // The e820 table on its own, for measurements; it reaches Linux inside
  // boot_params, so no piece of this type is placed.
  kE820 = 5,
  kAcpi = 6,
  // The boot CPU's entry state, for measurements; no piece of this type.
  kStartState = 7,
  // A device tree for the kernel, as an element of the list of setup_data.
  kDeviceTree = 8,
};

// "kernel segment", "initrd", ...
absl::string_view PieceTypeName(PieceType type);

// Bytes that must be in the guest's memory before its first instruction:
// `data` at `gpa`, then zeroes up to `memory_size` (BSS).
struct Piece {
  PieceType type;
  memory::GuestAddress gpa;
  SharedBytes data;
  // At least data.size(), and not 0.
  uint64_t memory_size = 0;

  // [gpa, gpa + memory_size); valid for a piece that Add has accepted.
  memory::GuestRange range() const;
};

// Where the boot CPU starts, in 64-bit mode with paging and an identity map.
// Linux wants the address of boot_params in RSI
// (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
struct EntryState {
  memory::GuestAddress rip;
  memory::GuestAddress rsi;
};

// The list of everything the monitor (or the shim, for confidential guests)
// places in guest memory. Loaders build it and never touch guest memory
// themselves; the same list is what the measurement hashes. Not thread-safe
// while it is built; immutable and freely shared afterwards.
class LaunchImage {
 public:
  // `usable` are the ranges that pieces may occupy. InvalidArgument if two of
  // them overlap; adjacent ones are joined.
  static absl::StatusOr<LaunchImage> Create(
      std::vector<memory::GuestRange> usable);

  // Takes `piece`. InvalidArgument, naming the piece, if it is empty, wraps,
  // has more data than memory, leaves usable memory or overlaps another piece.
  absl::Status Add(Piece piece);

  // As Add would decide, without adding.
  absl::Status CheckPlacement(const Piece& piece) const;

  // InvalidArgument unless rip lies in the data of a kernel segment and rsi is
  // the start of a piece.
  absl::Status SetEntry(const EntryState& entry);

  // Ordered by type, then address; the order does not depend on that of Add.
  const std::vector<Piece>& pieces() const { return pieces_; }

  // Sorted, disjoint, not adjacent.
  const std::vector<memory::GuestRange>& usable() const { return usable_; }

  // Set by every loader before it returns the image.
  const EntryState& entry() const { return entry_; }

  // The lowest (highest) address, a multiple of `alignment` (a power of two),
  // where `size` bytes are usable and free and inside `within`; nullopt if
  // there is none.
  std::optional<memory::GuestAddress> FindLowest(
      uint64_t size, uint64_t alignment,
      const memory::GuestRange& within) const;
  std::optional<memory::GuestAddress> FindHighest(
      uint64_t size, uint64_t alignment,
      const memory::GuestRange& within) const;

  // Bytes of the largest range that is usable, free and inside `within`.
  uint64_t LargestFree(const memory::GuestRange& within) const;

 private:
  explicit LaunchImage(std::vector<memory::GuestRange> usable)
      : usable_(std::move(usable)) {}
  // Usable memory inside `within` that no piece covers, ascending.
  std::vector<memory::GuestRange> FreeRanges(
      const memory::GuestRange& within) const;

  std::vector<memory::GuestRange> usable_;
  std::vector<Piece> pieces_;
  EntryState entry_;
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_LAUNCH_IMAGE_H_
