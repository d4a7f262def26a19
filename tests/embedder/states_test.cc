// SPDX-License-Identifier: Apache-2.0
//
// The page-state map alone: a gigabyte of private memory with a shared window.
#include <cstdint>
#include <cstdio>

#include "cloister/memory/page_state_map.h"

namespace memory = cloister::memory;

int main() {
  memory::PageStateMap map;
  auto ram =
      memory::GuestRange::Create(memory::GuestAddress(0), uint64_t{1} << 30);
  auto window = memory::GuestRange::Create(memory::GuestAddress(64 << 20),
                                           uint64_t{1} << 20);
  if (!ram.ok() || !window.ok() ||
      !map.Set(*ram, memory::PageState::kPrivate).ok() ||
      !map.Set(*window, memory::PageState::kShared).ok()) {
    return 1;
  }
  int ranges = 0;
  map.ForEachRange(*ram, [&](const memory::StateRange& range) {
    std::printf("%llu bytes %s\n",
                static_cast<unsigned long long>(range.range.size()),
                memory::PageStateName(range.state).data());
    ++ranges;
    return true;
  });
  return ranges == 3 && map.bytes(memory::PageState::kShared) == uint64_t{1}
                                                                     << 20
             ? 0
             : 1;
}
