// SPDX-License-Identifier: Apache-2.0
//
// The page-state map against the naive model. Each operation is four bytes:
// first cell, length, state and scale.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "cloister/memory/page_state_map.h"
#include "cloister/memory/page_state_map_model.h"

namespace {

using cloister::memory::ModelOp;
using cloister::memory::PageState;
using cloister::memory::PageStateMap;
using cloister::memory::PageStateModel;

// Single pages on both sides of a block boundary, whole blocks, and giants:
// 256 cells at the least, so that a byte picks one.
std::vector<uint64_t> Cuts() {
  constexpr uint64_t kBlock = 2048;
  std::vector<uint64_t> cuts;
  for (uint64_t page = 0; page < 160; ++page) {
    cuts.push_back(8 * kBlock - 80 + page);
  }
  for (uint64_t block = 1; block < 60; ++block) cuts.push_back(block * kBlock);
  for (int shift = 20; shift < 40; ++shift) {
    cuts.push_back(uint64_t{1} << shift);
    cuts.push_back((uint64_t{1} << shift) + 3);
  }
  return cuts;
}

void Check(const std::string& wrong) {
  if (wrong.empty()) return;
  std::cerr << wrong << std::endl;
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  PageStateModel model(Cuts());
  PageStateMap map;
  for (size_t at = 0; size - at >= 4 && at < 4 * 4096; at += 4) {
    size_t first = data[at] % model.cells();
    size_t length = 1 + data[at + 1] % (model.cells() - first);
    if (data[at + 3] % 4 != 0) length = 1;
    ModelOp op = {first, first + length,
                  static_cast<PageState>(data[at + 2] % 4)};
    bool changes = model.Apply(op);
    uint64_t generation = map.CurrentGeneration();
    if (!map.Set(model.Range(op.first, op.end), op.state).ok()) std::abort();
    if (map.CurrentGeneration() != generation + changes) std::abort();
    Check(model.CompareRange(map, first, model.cells()));
    Check(model.ComparePage(map, op.end - 1, true));
  }
  Check(model.Compare(map));
  return 0;
}
