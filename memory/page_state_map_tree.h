// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PAGE_STATE_MAP_TREE_H_
#define CLOISTER_MEMORY_PAGE_STATE_MAP_TREE_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "cloister/memory/page_state_map_leaf.h"

namespace cloister::memory::page_state_internal {

struct Node;

// What the tree stores, in 16 bytes: pages [first, end) in one state (1..3), or
// the DenseLeaf of the block that starts at `first`. Pages in no entry are in
// state 0. An inner node's entries hold its children and their first keys.
class Entry {
 public:
  Entry() = default;
  static Entry Range(uint64_t first, uint64_t end, uint8_t state) {
    return Entry(first, end | uint64_t{state} << kStateShift);
  }
  static Entry Leaf(uint64_t first, const DenseLeaf* leaf) {
    return Entry(first, reinterpret_cast<uint64_t>(leaf));
  }
  static Entry Child(uint64_t first, const Node* node) {
    return Entry(first, reinterpret_cast<uint64_t>(node));
  }

  uint64_t first() const { return first_; }
  bool is_leaf() const { return payload_ >> kStateShift == 0; }
  uint64_t end() const {
    return is_leaf() ? first_ + DenseLeaf::kPages
                     : payload_ & ((uint64_t{1} << kStateShift) - 1);
  }
  // 0 for a leaf.
  uint8_t state() const {
    return static_cast<uint8_t>(payload_ >> kStateShift);
  }
  const DenseLeaf* leaf() const {
    return reinterpret_cast<const DenseLeaf*>(payload_);
  }
  const Node* child() const { return reinterpret_cast<const Node*>(payload_); }

 private:
  // User-space pointers and page numbers leave the two top bits free.
  static constexpr int kStateShift = 62;
  Entry(uint64_t first, uint64_t payload) : first_(first), payload_(payload) {}

  uint64_t first_ = 0;
  uint64_t payload_ = 0;
};

// The state of `page` in the tree under `root`, which may be null.
uint8_t Lookup(const Node* root, uint64_t page);

// Calls `visit` for each entry that meets [first, end), in order and unclipped,
// until it returns false; then false.
bool VisitEntries(const Node* root, uint64_t first, uint64_t end,
                  absl::FunctionRef<bool(const Entry&)> visit);

// Levels above the lowest; logarithmic in the number of entries.
uint32_t Height(const Node* root);

// Changes a B+ tree by copying: nodes and leaves that were ever part of a tree
// are immutable, and a node is allocated at the size its entries need. What a
// change makes unreachable is handed out as garbage for its user to free when
// no reader can see it any more. Not thread-safe.
class TreeEditor {
 public:
  struct Garbage {
    const Node* node;  // One of the two is null.
    const DenseLeaf* leaf;
  };

  TreeEditor() = default;
  TreeEditor(const TreeEditor&) = delete;
  TreeEditor& operator=(const TreeEditor&) = delete;

  // A leaf for an Entry of Replace().
  DenseLeaf* NewLeaf(const DenseLeaf& contents);

  // The tree of `root` (which may be null) with the entries whose first page is
  // in [low, high) replaced by `with`: ordered, and disjoint from the rest.
  const Node* Replace(const Node* root, uint64_t low, uint64_t high,
                      absl::Span<const Entry> with);

  // Makes all of a tree garbage.
  void Drop(const Node* root);

  std::vector<Garbage> TakeGarbage() { return std::move(garbage_); }
  void Free(const Garbage& garbage);

  size_t entry_count() const { return entry_count_; }
  // Of nodes and leaves not freed yet.
  size_t bytes() const { return bytes_; }

 private:
  using EntryList = absl::InlinedVector<Entry, 72>;

  void ReplaceIn(const Node* node, uint64_t low, uint64_t high,
                 absl::Span<const Entry> with, EntryList* out);
  void AppendNodes(absl::Span<const Entry> entries, uint16_t height,
                   EntryList* out);
  void MergeSmall(EntryList* children, size_t first, size_t end);
  void DropEntry(const Entry& entry);
  void Retire(const Node* node) { garbage_.push_back({node, nullptr}); }

  std::vector<Garbage> garbage_;
  size_t entry_count_ = 0;
  size_t bytes_ = 0;
};

}  // namespace cloister::memory::page_state_internal

#endif  // CLOISTER_MEMORY_PAGE_STATE_MAP_TREE_H_
