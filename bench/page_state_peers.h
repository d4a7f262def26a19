// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BENCH_PAGE_STATE_PEERS_H_
#define CLOISTER_BENCH_PAGE_STATE_PEERS_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/functional/function_ref.h"

namespace cloister::bench {

// What one would write first, to measure the page-state map against. Neither
// peer is thread-safe, keeps generations, totals or checks its arguments. Pages
// [first, end), states 0..3; a visitor gets (first, end, state).
using PageVisitor = absl::FunctionRef<void(uint64_t, uint64_t, uint8_t)>;

// Two bits for each page of a span whose size is known beforehand.
class BitmapPeer {
 public:
  explicit BitmapPeer(uint64_t pages) : words_(pages / 32) {}

  void Set(uint64_t first, uint64_t end, uint8_t state) {
    for (; first < end && first % 32 != 0; ++first) SetOne(first, state);
    uint64_t pattern = state * uint64_t{0x5555555555555555};
    for (; end - first >= 32; first += 32) words_[first / 32] = pattern;
    for (; first < end; ++first) SetOne(first, state);
  }
  uint8_t Get(uint64_t page) const {
    return words_[page / 32] >> page % 32 * 2 & 3;
  }
  void Visit(uint64_t first, uint64_t end, PageVisitor visit) const {
    while (first < end) {
      uint8_t state = Get(first);
      uint64_t pattern = state * uint64_t{0x5555555555555555};
      uint64_t next = first + 1;
      while (next < end) {
        if (next % 32 == 0 && end - next >= 32 &&
            words_[next / 32] == pattern) {
          next += 32;
        } else if (Get(next) == state) {
          ++next;
        } else {
          break;
        }
      }
      visit(first, next, state);
      first = next;
    }
  }

 private:
  void SetOne(uint64_t page, uint8_t state) {
    uint64_t& word = words_[page / 32];
    word &= ~(uint64_t{3} << page % 32 * 2);
    word |= uint64_t{state} << page % 32 * 2;
  }
  std::vector<uint64_t> words_;
};

// A B-tree from the first page of each maximal range that is not in state 0.
class BtreePeer {
 public:
  void Set(uint64_t first, uint64_t end, uint8_t state) {
    auto at = ranges_.lower_bound(first);
    if (at != ranges_.begin()) {
      auto before = at;
      --before;
      if (before->second.end >= first) at = before;
    }
    // Cut what overlaps, keep what sticks out, merge what touches.
    Value left = {0, 0}, right = {0, 0};
    uint64_t left_first = 0;
    while (at != ranges_.end() && at->first <= end) {
      if (at->first < first) {
        left_first = at->first;
        left = {first, at->second.state};
      }
      if (at->second.end > end) right = at->second;
      at = ranges_.erase(at);
    }
    uint64_t new_first = first, new_end = end;
    if (left.state != 0 && left.state == state) {
      new_first = left_first;
    } else if (left.state != 0) {
      ranges_[left_first] = left;
    }
    if (right.state != 0 && right.state == state) {
      new_end = right.end;
    } else if (right.state != 0) {
      ranges_[end] = right;
    }
    if (state != 0) ranges_[new_first] = {new_end, state};
  }
  uint8_t Get(uint64_t page) const {
    auto after = ranges_.upper_bound(page);
    if (after == ranges_.begin()) return 0;
    --after;
    return page < after->second.end ? after->second.state : 0;
  }
  void Visit(uint64_t first, uint64_t end, PageVisitor visit) const {
    auto at = ranges_.upper_bound(first);
    if (at != ranges_.begin()) --at;
    for (; at != ranges_.end() && at->first < end; ++at) {
      if (at->second.end <= first) continue;
      if (at->first > first) visit(first, at->first, 0);
      uint64_t from = at->first > first ? at->first : first;
      uint64_t to = at->second.end < end ? at->second.end : end;
      visit(from, to, at->second.state);
      first = to;
    }
    if (first < end) visit(first, end, 0);
  }
  size_t entry_count() const { return ranges_.size(); }

 private:
  struct Value {
    uint64_t end;
    uint8_t state;
  };
  absl::btree_map<uint64_t, Value> ranges_;
};

}  // namespace cloister::bench

#endif  // CLOISTER_BENCH_PAGE_STATE_PEERS_H_
