// SPDX-License-Identifier: Apache-2.0
//
// Tracks page states, and nothing else: no VM, no KVM, one library. Reads lines
// such as "shared 0x100000 0x2000" (a state, an address, a size), and prints
// the map that results.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <iomanip>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace {

using cloister::memory::GuestAddress;
using cloister::memory::GuestRange;
using cloister::memory::PageState;
using cloister::memory::PageStateMap;
using cloister::memory::PageStateName;
using cloister::memory::StateRange;

constexpr PageState kStates[] = {PageState::kNotRam, PageState::kPrivate,
                                 PageState::kShared, PageState::kAliased};

std::optional<PageState> ParseState(const std::string& name) {
  for (PageState state : kStates) {
    if (name == PageStateName(state)) return state;
  }
  return std::nullopt;
}

absl::Status Apply(const std::string& line, PageStateMap& map) {
  std::istringstream words(line);
  std::string name;
  uint64_t address = 0, size = 0;
  words >> name >> std::setbase(0) >> address >> size;
  const std::optional<PageState> state = ParseState(name);
  if (!words || !state.has_value()) {
    return absl::InvalidArgumentError("expected: STATE ADDRESS SIZE");
  }
  // What is not page-aligned, or wraps around, is an error here.
  auto range = GuestRange::CreatePageAligned(GuestAddress(address), size);
  if (!range.ok()) return range.status();
  return map.Set(*range, *state);
}

void Print(const PageStateMap& map) {
  auto all = GuestRange::Create(GuestAddress(0), PageStateMap::kEndAddress);
  map.ForEachRange(*all, [](const StateRange& part) {
    if (part.state != PageState::kNotRam) {
      std::printf("%#12" PRIx64 " %#12" PRIx64 " %s\n",
                  part.range.start().value(), part.range.size(),
                  std::string(PageStateName(part.state)).c_str());
    }
    return true;
  });
  for (PageState state : {PageState::kPrivate, PageState::kShared}) {
    std::printf("%" PRIu64 " bytes %s\n", map.bytes(state),
                std::string(PageStateName(state)).c_str());
  }
}

}  // namespace

int main() {
  PageStateMap map;
  int number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    if (line.empty()) continue;
    const absl::Status status = Apply(line, map);
    if (!status.ok()) {
      std::fprintf(stderr, "line %d: %s\n", number,
                   std::string(status.message()).c_str());
      return 1;
    }
  }
  Print(map);
}
