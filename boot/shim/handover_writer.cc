// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/handover_writer.h"

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/fdt.h"
#include "cloister/boot/shim/handover_reader.h"

namespace cloister::shim {
namespace {

void WritePiece(const HandoverPiece& piece, boot::FdtBuilder* fdt) {
  fdt->BeginNode(absl::StrCat(kPieceNode, absl::Hex(piece.gpa)));
  fdt->U32("type", piece.type);
  fdt->U64("gpa", piece.gpa);
  fdt->U64("length", piece.length);
  fdt->U64("memory-size", piece.memory_size);
  fdt->Bytes("sha256", piece.digest.bytes);
  fdt->EndNode();
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> WriteHandover(const Handover& handover) {
  if (handover.ram_count > kMaxRamRanges || handover.piece_count > kMaxPieces) {
    return absl::InvalidArgumentError(
        absl::StrCat("hand-over with ", handover.ram_count, " RAM ranges and ",
                     handover.piece_count, " pieces"));
  }
  boot::FdtBuilder fdt;
  fdt.BeginNode("");
  fdt.String("compatible", kCompatible);
  fdt.U32("c-bit", handover.c_bit);
  fdt.U64("shim", handover.shim);
  fdt.U64("entry", handover.entry);
  fdt.U64("boot-params", handover.boot_params);
  fdt.U32("vcpus", handover.vcpus);
  fdt.U32("hypercalls", handover.hypercalls);
  fdt.Bytes("platform", handover.platform.bytes);
  std::vector<uint64_t> ram;
  for (uint32_t i = 0; i < handover.ram_count; ++i) {
    ram.push_back(handover.ram[i].start);
    ram.push_back(handover.ram[i].size);
  }
  fdt.U64List("ram", ram);
  for (uint32_t i = 0; i < handover.piece_count; ++i) {
    WritePiece(handover.pieces[i], &fdt);
  }
  fdt.EndNode();
  ASSIGN_OR_RETURN(std::vector<uint8_t> tree, fdt.Finish());
  if (tree.size() > kHandoverMax) {
    return absl::InvalidArgumentError(absl::StrCat("hand-over of ", tree.size(),
                                                   " bytes, at most ",
                                                   kHandoverMax, " fit"));
  }
  return tree;
}

}  // namespace cloister::shim
