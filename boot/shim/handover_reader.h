// SPDX-License-Identifier: Apache-2.0
//
// Reads the hand-over device tree. Freestanding, strict: a tree is read only if
// it has exactly the nodes and properties of handover_writer.h, in that order,
// with exactly those sizes. There is one way to write a hand-over, and anything
// else is refused.
#ifndef CLOISTER_BOOT_SHIM_HANDOVER_READER_H_
#define CLOISTER_BOOT_SHIM_HANDOVER_READER_H_

#include <cstddef>
#include <cstdint>

#include "cloister/boot/shim/fdt_cursor.h"
#include "cloister/boot/shim/handover.h"

namespace cloister::shim {

// Names of nodes and properties, for the reader and the writer.
inline constexpr char kCompatible[] = "cloister,handover-v1";
inline constexpr char kPieceNode[] = "piece@";

constexpr bool ReadPiece(FdtCursor& fdt, HandoverPiece* piece) {
  uint64_t address = 0;
  return fdt.BeginNode(kPieceNode, &address) &&
         fdt.Property32("type", &piece->type) &&
         fdt.Property64("gpa", &piece->gpa) && piece->gpa == address &&
         fdt.Property64("length", &piece->length) &&
         fdt.Property64("memory-size", &piece->memory_size) &&
         fdt.PropertyDigest("sha256", &piece->digest) && fdt.EndNode();
}

constexpr bool ReadRam(FdtCursor& fdt, Handover* out) {
  uint32_t length = 0;
  const uint8_t* value = fdt.Property("ram", 16, 16 * kMaxRamRanges, &length);
  if (value == nullptr || length % 16 != 0) return false;
  out->ram_count = length / 16;
  for (uint32_t i = 0; i < out->ram_count; ++i) {
    out->ram[i].start = FdtCursor::Double(value + 16 * i);
    out->ram[i].size = FdtCursor::Double(value + 16 * i + 8);
  }
  return true;
}

// Reads the tree at `data` into `out`. False if it is not a hand-over; `out` is
// then meaningless. Checks form only: see PlacementIsValid for the values.
constexpr bool ReadHandover(const uint8_t* data, size_t size, Handover* out) {
  FdtCursor fdt(data, size);
  if (!fdt.BeginNode("")) return false;
  uint32_t length = 0;
  const uint8_t* compatible = fdt.Property("compatible", sizeof(kCompatible),
                                           sizeof(kCompatible), &length);
  if (compatible == nullptr) return false;
  for (uint32_t i = 0; i < length; ++i) {
    if (compatible[i] != static_cast<uint8_t>(kCompatible[i])) return false;
  }
  if (!fdt.Property32("c-bit", &out->c_bit) ||
      !fdt.Property64("shim", &out->shim) ||
      !fdt.Property64("entry", &out->entry) ||
      !fdt.Property64("boot-params", &out->boot_params) ||
      !fdt.Property32("vcpus", &out->vcpus) ||
      !fdt.Property32("hypercalls", &out->hypercalls) ||
      !fdt.PropertyDigest("platform", &out->platform) || !ReadRam(fdt, out)) {
    return false;
  }
  if (out->hypercalls > 1) return false;
  out->piece_count = 0;
  while (fdt.AtNode()) {
    if (out->piece_count == kMaxPieces) return false;
    if (!ReadPiece(fdt, &out->pieces[out->piece_count++])) return false;
  }
  return fdt.EndNode() && fdt.End();
}

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_HANDOVER_READER_H_
