// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PAGE_STATE_MAP_LEAF_H_
#define CLOISTER_MEMORY_PAGE_STATE_MAP_LEAF_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace cloister::memory::page_state_internal {

// Two bits for each of kPages pages: the form of a block of the page-state map
// that holds many short ranges. Values are 0..3; all start as 0. Positions are
// page numbers within the block, and `end` is exclusive.
//
// Not thread-safe while it is being filled; immutable once published.
class DenseLeaf {
 public:
  static constexpr size_t kPages = 2048;  // 8 MiB of guest memory.

  uint8_t Get(size_t page) const {
    return (words_[page / kPerWord] >> Shift(page)) & 3;
  }

  // Sets [first, end), which is not empty, to `value`.
  void Fill(size_t first, size_t end, uint8_t value) {
    const uint64_t pattern = value * kLowBits;
    for (size_t word = first / kPerWord; word <= (end - 1) / kPerWord; ++word) {
      uint64_t mask = Mask(word, first, end);
      words_[word] = (words_[word] & ~mask) | (pattern & mask);
    }
  }

  // The first page after `first` whose value differs from its, or kPages.
  size_t RunEnd(size_t first) const {
    const uint64_t pattern = Get(first) * kLowBits;
    size_t word = first / kPerWord;
    uint64_t differs =
        (words_[word] ^ pattern) & (~uint64_t{0} << Shift(first));
    while (differs == 0) {
      if (++word == words_.size()) return kPages;
      differs = words_[word] ^ pattern;
    }
    return word * kPerWord + static_cast<size_t>(std::countr_zero(differs)) / 2;
  }

  // Whether the leaf consists of more than `limit` maximal runs.
  bool HasMoreRunsThan(size_t limit) const {
    size_t runs = 0;
    for (size_t at = 0; at < kPages; at = RunEnd(at)) {
      if (++runs > limit) return true;
    }
    return false;
  }

  // How many pages of [first, end), which is not empty, have `value`.
  size_t Count(size_t first, size_t end, uint8_t value) const {
    const uint64_t pattern = value * kLowBits;
    size_t count = 0;
    for (size_t word = first / kPerWord; word <= (end - 1) / kPerWord; ++word) {
      uint64_t differs = words_[word] ^ pattern;
      uint64_t equal = ~(differs | differs >> 1) & kLowBits;
      count += CountLowBits(equal & Mask(word, first, end));
    }
    return count;
  }

 private:
  static constexpr size_t kPerWord = 32;
  static constexpr uint64_t kLowBits = 0x5555555555555555;

  static constexpr int Shift(size_t page) {
    return static_cast<int>(page % kPerWord) * 2;
  }
  // The ones among the even bits of `bits`; the odd ones are zero. (popcount
  // would be a library call on x86-64 without -mpopcnt.)
  static constexpr size_t CountLowBits(uint64_t bits) {
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return bits * 0x0101010101010101 >> 56;
  }
  // The bits of `word` that belong to [first, end), which meets the word.
  static constexpr uint64_t Mask(size_t word, size_t first, size_t end) {
    uint64_t mask = ~uint64_t{0};
    if (word == first / kPerWord) mask <<= Shift(first);
    if (word == (end - 1) / kPerWord) {
      mask &= ~uint64_t{0} >> (62 - Shift(end - 1));
    }
    return mask;
  }

  std::array<uint64_t, kPages / kPerWord> words_ = {};
};

}  // namespace cloister::memory::page_state_internal

#endif  // CLOISTER_MEMORY_PAGE_STATE_MAP_LEAF_H_
