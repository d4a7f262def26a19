// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map_tree.h"

#include <algorithm>
#include <new>

namespace cloister::memory::page_state_internal {

// Followed in memory by `count` entries. Height 0 holds ranges and leaves.
struct Node {
  uint32_t count;
  uint32_t height;

  const Entry* entries() const {
    return reinterpret_cast<const Entry*>(this + 1);
  }
  Entry* entries() { return reinterpret_cast<Entry*>(this + 1); }
  absl::Span<const Entry> span() const { return {entries(), count}; }
};

namespace {

static_assert(sizeof(Node) % alignof(Entry) == 0);

constexpr size_t kMaxEntries = 32;
// A node with fewer is merged with a neighbour; keeps the height logarithmic.
constexpr size_t kMinEntries = 12;

constexpr size_t NodeBytes(size_t count) {
  return sizeof(Node) + count * sizeof(Entry);
}

// The number of entries whose first page is below `page`.
size_t LowerBound(const Node& node, uint64_t page) {
  const Entry* base = node.entries();
  size_t size = node.count;
  while (size > 1) {
    size_t half = size / 2;
    // Without a branch: nobody could predict it.
    base += half * static_cast<size_t>(base[half - 1].first() < page);
    size -= half;
  }
  return static_cast<size_t>(base - node.entries()) + (base->first() < page);
}

// The entry that `page` belongs to if to any: the last that starts at or before
// it, or else the first.
size_t IndexFor(const Node& node, uint64_t page) {
  size_t after = LowerBound(node, page + 1);
  return after == 0 ? 0 : after - 1;
}

}  // namespace

uint8_t Lookup(const Node* root, uint64_t page) {
  if (root == nullptr) return 0;
  const Node* node = root;
  while (node->height > 0) {
    node = node->entries()[IndexFor(*node, page)].child();
  }
  const Entry& entry = node->entries()[IndexFor(*node, page)];
  if (page < entry.first() || page >= entry.end()) return 0;
  return entry.is_leaf() ? entry.leaf()->Get(page - entry.first())
                         : entry.state();
}

bool VisitEntries(const Node* root, uint64_t first, uint64_t end,
                  absl::FunctionRef<bool(const Entry&)> visit) {
  if (root == nullptr) return true;
  for (size_t i = IndexFor(*root, first); i < root->count; ++i) {
    const Entry& entry = root->entries()[i];
    if (entry.first() >= end) break;
    if (root->height > 0) {
      if (!VisitEntries(entry.child(), first, end, visit)) return false;
    } else if (entry.end() > first) {
      if (!visit(entry)) return false;
    }
  }
  return true;
}

uint32_t Height(const Node* root) { return root == nullptr ? 0 : root->height; }

DenseLeaf* TreeEditor::NewLeaf(const DenseLeaf& contents) {
  bytes_ += sizeof(DenseLeaf);
  return new DenseLeaf(contents);
}

void TreeEditor::Free(const Garbage& garbage) {
  if (garbage.leaf != nullptr) {
    bytes_ -= sizeof(DenseLeaf);
    delete garbage.leaf;
  } else {
    bytes_ -= NodeBytes(garbage.node->count);
    ::operator delete(const_cast<Node*>(garbage.node));
  }
}

// Spreads `entries` evenly over as few nodes as can hold them.
void TreeEditor::AppendNodes(absl::Span<const Entry> entries, uint16_t height,
                             EntryList* out) {
  size_t nodes = (entries.size() + kMaxEntries - 1) / kMaxEntries;
  for (; nodes > 0; --nodes) {
    size_t count = entries.size() / nodes;
    Node* node = new (::operator new(NodeBytes(count)))
        Node{static_cast<uint32_t>(count), height};
    std::copy_n(entries.begin(), count, node->entries());
    bytes_ += NodeBytes(count);
    out->push_back(Entry::Child(entries[0].first(), node));
    entries.remove_prefix(count);
  }
}

void TreeEditor::DropEntry(const Entry& entry) {
  --entry_count_;
  if (entry.is_leaf()) garbage_.push_back({nullptr, entry.leaf()});
}

void TreeEditor::Drop(const Node* root) {
  if (root == nullptr) return;
  for (const Entry& entry : root->span()) {
    if (root->height > 0) {
      Drop(entry.child());
    } else {
      DropEntry(entry);
    }
  }
  Retire(root);
}

// Merges each of children [first, end) that is too small with a neighbour. The
// others are as full as they were.
void TreeEditor::MergeSmall(EntryList* children, size_t first, size_t end) {
  size_t i = first;
  while (i < end && children->size() > 1) {
    if ((*children)[i].child()->count >= kMinEntries) {
      ++i;
      continue;
    }
    size_t left = i > 0 ? i - 1 : 0;
    const Node* a = (*children)[left].child();
    const Node* b = (*children)[left + 1].child();
    EntryList both(a->span().begin(), a->span().end());
    both.insert(both.end(), b->span().begin(), b->span().end());
    EntryList merged;
    AppendNodes(both, static_cast<uint16_t>(a->height), &merged);
    Retire(a);
    Retire(b);
    (*children)[left] = merged[0];
    if (merged.size() == 2) {
      (*children)[left + 1] = merged[1];
      i = left + 2;
    } else {
      children->erase(children->begin() + static_cast<ptrdiff_t>(left) + 1);
      --end;
      i = left;
    }
  }
}

// Appends to `out` the nodes, of the same height, that take `node`'s place.
void TreeEditor::ReplaceIn(const Node* node, uint64_t low, uint64_t high,
                           absl::Span<const Entry> with, EntryList* out) {
  const Entry* entries = node->entries();
  EntryList list;
  if (node->height == 0) {
    size_t from = LowerBound(*node, low);
    size_t to = LowerBound(*node, high);
    list.assign(entries, entries + from);
    list.insert(list.end(), with.begin(), with.end());
    list.insert(list.end(), entries + to, entries + node->count);
    for (size_t i = from; i < to; ++i) DropEntry(entries[i]);
  } else {
    size_t from = IndexFor(*node, low);
    size_t to = IndexFor(*node, high - 1);
    list.assign(entries, entries + from);
    ReplaceIn(entries[from].child(), low, high, with, &list);
    for (size_t i = from + 1; i < to; ++i) Drop(entries[i].child());
    if (to > from) ReplaceIn(entries[to].child(), low, high, {}, &list);
    size_t changed_end = list.size();
    list.insert(list.end(), entries + to + 1, entries + node->count);
    MergeSmall(&list, from, changed_end);
  }
  AppendNodes(list, static_cast<uint16_t>(node->height), out);
  Retire(node);
}

const Node* TreeEditor::Replace(const Node* root, uint64_t low, uint64_t high,
                                absl::Span<const Entry> with) {
  EntryList level;
  uint16_t height = 0;
  if (root == nullptr) {
    AppendNodes(with, 0, &level);
  } else {
    height = static_cast<uint16_t>(root->height);
    ReplaceIn(root, low, high, with, &level);
  }
  entry_count_ += with.size();
  while (level.size() > 1) {
    EntryList above;
    AppendNodes(level, ++height, &above);
    level = above;
  }
  if (level.empty()) return nullptr;
  const Node* top = level[0].child();
  while (top->height > 0 && top->count == 1) {
    Retire(top);
    top = top->entries()[0].child();
  }
  return top;
}

}  // namespace cloister::memory::page_state_internal
