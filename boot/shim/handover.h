// SPDX-License-Identifier: Apache-2.0
//
// What the monitor hands to the shim, and the launch digest over it. The wire
// form is a flattened device tree (Devicetree Specification 0.4, chapter 5)
// written by handover_writer.h; the reader is handover_reader.h. Freestanding.
#ifndef CLOISTER_BOOT_SHIM_HANDOVER_H_
#define CLOISTER_BOOT_SHIM_HANDOVER_H_

#include <cstddef>
#include <cstdint>

#include "cloister/boot/shim/layout.h"
#include "cloister/boot/shim/sha256.h"

namespace cloister::shim {

inline constexpr uint32_t kMaxRamRanges = 8;
inline constexpr uint32_t kMaxPieces = 32;

// Versions the measurement; changes with the meaning of anything hashed.
inline constexpr uint32_t kDigestFormat = 1;
// Separates this hash from any other use of SHA-256, the NUL included.
inline constexpr uint8_t kDigestDomain[] = "cloister launch digest";

// boot::PieceType::kKernelSegment, where the kernel's entry must lie.
inline constexpr uint32_t kKernelSegmentType = 1;

// [start, start + size).
struct RamRange {
  uint64_t start = 0;
  uint64_t size = 0;
};

// `length` bytes at `gpa`, with zeroes after them up to `memory_size`. `type`
// is a boot::PieceType, `digest` the SHA-256 of the bytes.
struct HandoverPiece {
  uint32_t type = 0;
  uint64_t gpa = 0;
  uint64_t length = 0;
  uint64_t memory_size = 0;
  Digest digest;
};

// Everything the shim needs to know. All addresses are without the C-bit.
struct Handover {
  uint32_t c_bit = 0;        // Not measured: checked against CPUID instead.
  uint64_t shim = 0;         // Where the shim lies.
  uint64_t entry = 0;        // The kernel's first instruction,
  uint64_t boot_params = 0;  // and what RSI holds there.
  uint32_t vcpus = 0;
  uint32_t hypercalls = 0;  // 1 if KVM_HC_MAP_GPA_RANGE is to be used.
  // SHA-256 of everything else that the guest is given (LaunchOptions).
  Digest platform;
  uint32_t ram_count = 0;
  RamRange ram[kMaxRamRanges];
  uint32_t piece_count = 0;
  HandoverPiece pieces[kMaxPieces];
};

constexpr bool InsideRam(const Handover& handover, uint64_t gpa,
                         uint64_t size) {
  for (uint32_t i = 0; i < handover.ram_count; ++i) {
    const RamRange& ram = handover.ram[i];
    if (gpa >= ram.start && gpa - ram.start < ram.size &&
        size <= ram.size - (gpa - ram.start)) {
      return true;
    }
  }
  return false;
}

// RAM is page-aligned, non-empty, ascending, disjoint, and below the C-bit.
constexpr bool RamIsValid(const Handover& handover) {
  if (handover.c_bit < 32 || handover.c_bit > 51) return false;
  uint64_t limit = uint64_t{1} << handover.c_bit;
  uint64_t previous_end = 0;
  for (uint32_t i = 0; i < handover.ram_count; ++i) {
    const RamRange& ram = handover.ram[i];
    if (ram.start % 4096 != 0 || ram.size % 4096 != 0) return false;
    if (ram.size == 0 || ram.start < previous_end) return false;
    if (ram.start > limit || ram.size > limit - ram.start) return false;
    previous_end = ram.start + ram.size;
  }
  return handover.ram_count != 0;
}

// [gpa, gpa + size) is RAM between kLowest and kHighest.
constexpr bool IsTarget(const Handover& handover, uint64_t gpa, uint64_t size) {
  return size != 0 && gpa >= kLowest && gpa < kHighest &&
         size <= kHighest - gpa && InsideRam(handover, gpa, size);
}

// For ranges that do not wrap.
constexpr bool Overlap(uint64_t a, uint64_t a_size, uint64_t b,
                       uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

// True if everything lies where it may: inside RAM, in reach of the page
// tables, above the shared low memory, clear of the shim and of each other;
// and the kernel is entered in its own measured bytes.
constexpr bool PlacementIsValid(const Handover& handover) {
  if (!RamIsValid(handover) || handover.vcpus == 0) return false;
  if (handover.shim % 4096 != 0) return false;
  if (!IsTarget(handover, handover.shim, kShimSize)) return false;
  bool entry_known = false;
  bool boot_params_known = false;
  for (uint32_t i = 0; i < handover.piece_count; ++i) {
    const HandoverPiece& piece = handover.pieces[i];
    if (piece.length > piece.memory_size) return false;
    if (!IsTarget(handover, piece.gpa, piece.memory_size)) return false;
    if (Overlap(piece.gpa, piece.memory_size, handover.shim, kShimSize)) {
      return false;
    }
    for (uint32_t j = 0; j < i; ++j) {
      const HandoverPiece& other = handover.pieces[j];
      if (Overlap(piece.gpa, piece.memory_size, other.gpa, other.memory_size)) {
        return false;
      }
    }
    entry_known |= piece.type == kKernelSegmentType &&
                   handover.entry >= piece.gpa &&
                   handover.entry - piece.gpa < piece.length;
    boot_params_known |= handover.boot_params == piece.gpa;
  }
  return entry_known && boot_params_known;
}

// Hash of the shim with its digest slot zeroed. `size` > the end of the slot.
constexpr Digest ImageDigest(const uint8_t* image, size_t size) {
  Sha256 hash;
  const Digest zero;
  hash.Update(image, kDigestSlot);
  hash.Update(zero.bytes, kDigestSize);
  hash.Update(image + kDigestSlot + kDigestSize,
              size - kDigestSlot - kDigestSize);
  return hash.Finish();
}

// The launch digest: one SHA-256 over domain and format, the shim, the start
// state and the ordered pieces. Every field has a fixed width or follows its
// count, so no two different launches feed the same bytes to it.
constexpr Digest LaunchDigest(const Digest& image, uint64_t image_size,
                              const Handover& handover) {
  Sha256 hash;
  hash.Update(kDigestDomain, sizeof(kDigestDomain));
  hash.UpdateU32(kDigestFormat);
  hash.UpdateU64(image_size);
  hash.Update(image.bytes, kDigestSize);
  hash.UpdateU64(handover.shim);
  hash.UpdateU64(handover.entry);
  hash.UpdateU64(handover.boot_params);
  hash.UpdateU32(handover.vcpus);
  hash.UpdateU32(handover.hypercalls);
  hash.Update(handover.platform.bytes, kDigestSize);
  hash.UpdateU32(handover.ram_count);
  for (uint32_t i = 0; i < handover.ram_count; ++i) {
    hash.UpdateU64(handover.ram[i].start);
    hash.UpdateU64(handover.ram[i].size);
  }
  hash.UpdateU32(handover.piece_count);
  for (uint32_t i = 0; i < handover.piece_count; ++i) {
    const HandoverPiece& piece = handover.pieces[i];
    hash.UpdateU32(piece.type);
    hash.UpdateU64(piece.gpa);
    hash.UpdateU64(piece.length);
    hash.UpdateU64(piece.memory_size);
    hash.Update(piece.digest.bytes, kDigestSize);
  }
  return hash.Finish();
}

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_HANDOVER_H_
