// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PAGE_STATE_MAP_GENERATIONS_H_
#define CLOISTER_MEMORY_PAGE_STATE_MAP_GENERATIONS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace cloister::memory::page_state_internal {

// Remembers, per neighbourhood, the generation of the last change. A fixed
// table: neighbourhoods share counters, which can only make a page look more
// recently changed than it is.
class Generations {
 public:
  // Pages [first, end), which is not empty, change with `generation`. One
  // writer at a time; publish the change afterwards.
  void Mark(uint64_t first, uint64_t end, uint64_t generation) {
    for (const Level& level : kLevels) {
      const uint64_t last = (end - 1) >> level.shift;
      uint64_t block = first >> level.shift;
      if (last - block >= kMaxMarks) continue;
      for (; block <= last; ++block) {
        Counter(level, block).store(generation, std::memory_order_relaxed);
      }
      return;
    }
    everywhere_.store(generation, std::memory_order_relaxed);
  }

  // The generation of the latest change that may have touched the page, or 0.
  // Never less than that of one that did. From any thread.
  uint64_t LastChange(uint64_t page) const {
    uint64_t last = everywhere_.load(std::memory_order_relaxed);
    for (const Level& level : kLevels) {
      last = std::max(
          last,
          Counter(level, page >> level.shift).load(std::memory_order_relaxed));
    }
    return last;
  }

 private:
  struct Level {
    int shift;      // Pages per block, as a power of two.
    size_t offset;  // Of its counters in counters_.
    size_t count;   // How many counters, a power of two.
  };
  static constexpr uint64_t kMaxMarks = 16;
  // 2 MiB, 1 GiB and 512 GiB.
  static constexpr Level kLevels[] = {
      {9, 0, 1024}, {18, 1024, 256}, {27, 1280, 64}};
  static constexpr size_t kCounters = 1344;

  const std::atomic<uint64_t>& Counter(const Level& level,
                                       uint64_t block) const {
    return counters_[level.offset + block % level.count];
  }
  std::atomic<uint64_t>& Counter(const Level& level, uint64_t block) {
    return counters_[level.offset + block % level.count];
  }

  std::array<std::atomic<uint64_t>, kCounters> counters_ = {};
  std::atomic<uint64_t> everywhere_{0};
};

}  // namespace cloister::memory::page_state_internal

#endif  // CLOISTER_MEMORY_PAGE_STATE_MAP_GENERATIONS_H_
