// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes the shim's reader. Whatever is accepted must survive being written and
// read again, and must not upset the checks that follow in the shim.
#include <cstdint>
#include <cstdlib>

#include "cloister/boot/shim/handover.h"
#include "cloister/boot/shim/handover_reader.h"
#include "cloister/boot/shim/handover_writer.h"

namespace shim = cloister::shim;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shim::Handover first;
  if (!shim::ReadHandover(data, size, &first)) return 0;
  if (shim::PlacementIsValid(first)) {
    for (uint32_t i = 0; i < first.piece_count; ++i) {
      const shim::HandoverPiece& piece = first.pieces[i];
      if (piece.gpa < shim::kLowest) std::abort();
      if (piece.memory_size > shim::kHighest - piece.gpa) std::abort();
      if (piece.length > piece.memory_size) std::abort();
    }
  }
  auto tree = shim::WriteHandover(first);
  if (!tree.ok()) std::abort();
  shim::Handover second;
  if (!shim::ReadHandover(tree->data(), tree->size(), &second)) std::abort();
  if (first.c_bit != second.c_bit) std::abort();
  if (shim::LaunchDigest(shim::Digest(), 0, first) !=
      shim::LaunchDigest(shim::Digest(), 0, second)) {
    std::abort();
  }
  return 0;
}
