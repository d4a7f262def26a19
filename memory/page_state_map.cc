// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/page_state_map.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/page_state_map_generations.h"
#include "cloister/memory/page_state_map_leaf.h"
#include "cloister/memory/page_state_map_readers.h"
#include "cloister/memory/page_state_map_tree.h"

// Three parts, see docs/page_state_map.md: a copy-on-write B+ tree of ranges
// and dense leaves under one atomic root, reader slots that say when replaced
// nodes may be freed, and a fixed table of generations per neighbourhood.
namespace cloister::memory {
namespace {

using page_state_internal::DenseLeaf;
using page_state_internal::Entry;
using page_state_internal::Generations;
using page_state_internal::Lookup;
using page_state_internal::Node;
using page_state_internal::ReaderSlots;
using page_state_internal::TreeEditor;
using page_state_internal::VisitEntries;

constexpr uint64_t kEndPage = PageStateMap::kEndAddress >> kPageShift;
constexpr uint64_t kBlock = DenseLeaf::kPages;

// A block with more runs than this becomes a leaf, and a leaf with no more than
// that becomes ranges again. The gap keeps a block from going to and fro.
constexpr size_t kMaxSparseRuns = 16;
constexpr size_t kMinDenseRuns = 8;
// With no more ranges than this in a block there cannot be too many runs after
// a change: two more ranges at most, and gaps between all of them.
constexpr size_t kFewRanges = (kMaxSparseRuns - 1) / 2 - 2;

// Garbage is looked through when there are this many nodes and leaves of it.
constexpr size_t kReclaimCount = 64;

uint8_t ToBits(PageState state) { return static_cast<uint8_t>(state); }
PageState FromBits(uint8_t bits) { return static_cast<PageState>(bits); }

// Pages [first, end).
struct PageSpan {
  uint64_t first;
  uint64_t end;

  uint64_t size() const { return end - first; }
  // The part that also belongs to [first, end); its size may be zero.
  PageSpan Clip(uint64_t low, uint64_t high) const {
    uint64_t from = std::max(first, low);
    return {from, std::max(from, std::min(end, high))};
  }
};

PageSpan Span(const Entry& entry) { return {entry.first(), entry.end()}; }

// The pages that have a byte in `range`.
PageSpan TouchedPages(const GuestRange& range) {
  return {range.start().gfn().value(), range.last().gfn().value() + 1};
}

// Numbers of pages by state.
using Tally = std::array<uint64_t, 4>;

void AddEntry(const Entry& entry, const PageSpan& within, Tally* tally) {
  PageSpan part = Span(entry).Clip(within.first, within.end);
  if (part.size() == 0) return;
  if (!entry.is_leaf()) {
    (*tally)[entry.state()] += part.size();
    return;
  }
  for (uint8_t state = 1; state < 4; ++state) {
    (*tally)[state] += entry.leaf()->Count(part.first - entry.first(),
                                           part.end - entry.first(), state);
  }
}

// Collects the entries that replace a window, merging equal neighbours.
class Replacement {
 public:
  void AddRange(const PageSpan& pages, uint8_t state) {
    if (pages.size() == 0 || state == 0) return;
    if (!entries_.empty() && !entries_.back().is_leaf() &&
        entries_.back().state() == state &&
        entries_.back().end() == pages.first) {
      uint64_t first = entries_.back().first();
      entries_.back() = Entry::Range(first, pages.end, state);
    } else {
      entries_.push_back(Entry::Range(pages.first, pages.end, state));
    }
  }
  void AddLeaf(uint64_t block, const DenseLeaf* leaf) {
    entries_.push_back(Entry::Leaf(block, leaf));
  }
  absl::Span<const Entry> entries() const { return entries_; }

 private:
  absl::InlinedVector<Entry, 2 * kMaxSparseRuns + 4> entries_;
};

// Turns entries and the gaps between them into maximal ranges for a visitor.
class RangeReporter {
 public:
  RangeReporter(const GuestRange& range,
                absl::FunctionRef<bool(const StateRange&)> visit)
      : range_(range), visit_(visit) {}

  // The pages that the range touches; the last may be beyond kEndPage.
  const PageSpan& pages() const { return pages_; }

  bool AddEntry(const Entry& entry) {
    PageSpan part = Span(entry).Clip(pages_.first, pages_.end);
    if (!AddRun(part.first, 0)) return false;
    if (!entry.is_leaf()) return AddRun(part.end, entry.state());
    while (next_ < part.end) {
      size_t at = next_ - entry.first();
      uint64_t end = entry.first() + entry.leaf()->RunEnd(at);
      if (!AddRun(std::min(end, part.end), entry.leaf()->Get(at))) return false;
    }
    return true;
  }

  // The rest is not RAM; reports what has not been reported yet.
  bool Finish() { return AddRun(pages_.end, 0) && Report(); }

 private:
  // Pages from next_ to `end` are in `state`.
  bool AddRun(uint64_t end, uint8_t state) {
    if (end <= next_) return true;
    if (state != state_) {
      if (next_ > pending_ && !Report()) return false;
      pending_ = next_;
      state_ = state;
    }
    next_ = end;
    return true;
  }
  // Reports pages [pending_, next_), clipped to the bytes asked for.
  bool Report() {
    GuestAddress start =
        std::max(range_.start(), GuestAddress::FromGfn(Gfn(pending_)));
    GuestAddress last =
        std::min(range_.last(),
                 GuestAddress((next_ - 1) << kPageShift | (kPageSize - 1)));
    auto part = GuestRange::Create(start, last.value() - start.value() + 1);
    return visit_({*part, FromBits(state_)});
  }

  const GuestRange& range_;
  const PageSpan pages_ = TouchedPages(range_);
  absl::FunctionRef<bool(const StateRange&)> visit_;
  uint64_t pending_ = pages_.first;
  uint64_t next_ = pages_.first;
  uint8_t state_ = 0;
};

// Whether all of `pages` are in `state`, which is not 0.
bool AllInState(const Node* root, const PageSpan& pages, uint8_t state) {
  uint64_t next = pages.first;
  VisitEntries(root, pages.first, pages.end, [&](const Entry& entry) {
    if (entry.first() > next) return false;
    if (!entry.is_leaf()) {
      if (entry.state() != state) return false;
      next = entry.end();
      return true;
    }
    size_t at = next - entry.first();
    if (entry.leaf()->Get(at) != state) return false;
    next = entry.first() + entry.leaf()->RunEnd(at);
    return next == entry.end();
  });
  return next >= pages.end;
}

}  // namespace

absl::string_view PageStateName(PageState state) {
  switch (state) {
    case PageState::kNotRam:
      return "not-ram";
    case PageState::kPrivate:
      return "private";
    case PageState::kShared:
      return "shared";
    case PageState::kAliased:
      return "aliased";
  }
  return "invalid";
}

class PageStateMap::Impl {
 public:
  ~Impl() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    editor_.Drop(root_.load());
    for (const auto& garbage : editor_.TakeGarbage()) editor_.Free(garbage);
    for (const Retired& retired : retired_) editor_.Free(retired.garbage);
  }

  void Set(const PageSpan& pages, uint8_t state);

  // Calls `read(root)` while the tree under it is kept.
  template <typename Read>
  auto WithRoot(const Read& read) const {
    ReaderSlots::Guard guard(&readers_);
    return read(root_.load());
  }

  bool ChangedSince(uint64_t page, uint64_t generation) const {
    return generations_.LastChange(page) > generation;
  }
  uint64_t generation() const { return generation_.load(); }
  uint64_t pages(uint8_t state) const { return totals_[state].load(); }
  size_t entry_count() const { return entry_count_.load(); }
  size_t memory_bytes() const {
    return sizeof(PageStateMap) + sizeof(Impl) + tree_bytes_.load();
  }

 private:
  struct Retired {
    TreeEditor::Garbage garbage;
    uint64_t tag;
  };

  Tally Count(const PageSpan& pages) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds the contents of the block at `block`, with `pages` in `state`.
  void AddBlock(uint64_t block, const PageSpan& pages, uint8_t state,
                Replacement* out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The tree with `pages` in `state`.
  const Node* Edit(const PageSpan& pages, uint8_t state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Reclaim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<const Node*> root_{nullptr};
  mutable ReaderSlots readers_;
  std::atomic<uint64_t> generation_{0};
  Generations generations_;
  std::array<std::atomic<uint64_t>, 4> totals_ = {kEndPage, 0, 0, 0};
  std::atomic<size_t> entry_count_{0};
  std::atomic<size_t> tree_bytes_{0};

  base::Mutex mutex_;  // Held by writers.
  TreeEditor editor_ ABSL_GUARDED_BY(mutex_);
  std::vector<Retired> retired_ ABSL_GUARDED_BY(mutex_);
  size_t reclaim_at_ ABSL_GUARDED_BY(mutex_) = kReclaimCount;
};

Tally PageStateMap::Impl::Count(const PageSpan& pages) const {
  Tally tally = {};
  VisitEntries(root_.load(std::memory_order_relaxed), pages.first, pages.end,
               [&](const Entry& entry) {
                 AddEntry(entry, pages, &tally);
                 return true;
               });
  tally[0] = pages.size() - tally[1] - tally[2] - tally[3];
  return tally;
}

void PageStateMap::Impl::AddBlock(uint64_t block, const PageSpan& pages,
                                  uint8_t state, Replacement* out) {
  absl::InlinedVector<Entry, kFewRanges> entries;
  VisitEntries(root_.load(std::memory_order_relaxed), block, block + kBlock,
               [&](const Entry& entry) {
                 entries.push_back(entry);
                 return true;
               });
  const bool was_dense = !entries.empty() && entries[0].is_leaf();
  const PageSpan changed = pages.Clip(block, block + kBlock);
  if (!was_dense && entries.size() <= kFewRanges) {
    for (const Entry& entry : entries) {
      out->AddRange(Span(entry).Clip(block, changed.first), entry.state());
    }
    out->AddRange(changed, state);
    for (const Entry& entry : entries) {
      out->AddRange(Span(entry).Clip(changed.end, block + kBlock),
                    entry.state());
    }
    return;
  }

  DenseLeaf contents = was_dense ? *entries[0].leaf() : DenseLeaf();
  if (!was_dense) {
    for (const Entry& entry : entries) {
      PageSpan part = Span(entry).Clip(block, block + kBlock);
      contents.Fill(part.first - block, part.end - block, entry.state());
    }
  }
  contents.Fill(changed.first - block, changed.end - block, state);
  if (contents.HasMoreRunsThan(was_dense ? kMinDenseRuns : kMaxSparseRuns)) {
    out->AddLeaf(block, editor_.NewLeaf(contents));
    return;
  }
  for (size_t at = 0; at < kBlock;) {
    size_t end = contents.RunEnd(at);
    out->AddRange({block + at, block + end}, contents.Get(at));
    at = end;
  }
}

const Node* PageStateMap::Impl::Edit(const PageSpan& pages, uint8_t state) {
  const Node* root = root_.load(std::memory_order_relaxed);
  // The window is replaced as a whole. It consists of whole blocks, and of the
  // ranges that reach into it or touch it, with which its ends may merge.
  const uint64_t low = pages.first / kBlock * kBlock;
  const uint64_t high = (pages.end + kBlock - 1) / kBlock * kBlock;
  std::optional<Entry> left, right;
  auto find_neighbours = [&](const Entry& entry) {
    if (entry.is_leaf()) return true;
    if (entry.first() < low) left = entry;
    if (entry.end() > high) right = entry;
    return true;
  };
  VisitEntries(root, low == 0 ? 0 : low - 1, low + 1, find_neighbours);
  VisitEntries(root, high - 1, high + 1, find_neighbours);

  Replacement out;
  if (left.has_value()) out.AddRange({left->first(), low}, left->state());
  uint64_t middle = low;
  if (pages.first != low) {
    AddBlock(low, pages, state, &out);
    middle = low + kBlock;
  }
  const bool partial_end = pages.end != high && high - kBlock >= middle;
  uint64_t middle_end = partial_end ? high - kBlock : high;
  if (middle < middle_end) out.AddRange({middle, middle_end}, state);
  if (partial_end) AddBlock(high - kBlock, pages, state, &out);
  if (right.has_value()) out.AddRange({high, right->end()}, right->state());

  return editor_.Replace(
      root, left.has_value() ? left->first() : low,
      right.has_value() ? std::max(high, right->first() + 1) : high,
      out.entries());
}

// Frees what no reader can see any more, if there is enough of it. When readers
// hold things up, the next look is due after as much again.
void PageStateMap::Impl::Reclaim() {
  if (retired_.size() < reclaim_at_) return;
  const uint64_t oldest = readers_.Oldest();
  // In order of their tags.
  size_t freed = 0;
  while (freed < retired_.size() && retired_[freed].tag <= oldest) {
    editor_.Free(retired_[freed++].garbage);
  }
  retired_.erase(retired_.begin(),
                 retired_.begin() + static_cast<ptrdiff_t>(freed));
  if (retired_.capacity() > 4 * (retired_.size() + kReclaimCount)) {
    retired_.shrink_to_fit();
  }
  reclaim_at_ = 2 * retired_.size() + kReclaimCount;
}

void PageStateMap::Impl::Set(const PageSpan& pages, uint8_t state) {
  base::MutexLock lock(&mutex_);
  const Tally old = Count(pages);
  if (old[state] == pages.size()) return;
  const Node* root = Edit(pages, state);

  // Whoever sees the new tree must see it as changed; whoever reads the new
  // generation must see the new tree. So: mark, publish, count.
  const uint64_t generation = generation_.load(std::memory_order_relaxed) + 1;
  generations_.Mark(pages.first, pages.end, generation);
  root_.store(root);
  generation_.store(generation);

  for (size_t i = 0; i < old.size(); ++i) totals_[i].fetch_sub(old[i]);
  totals_[state].fetch_add(pages.size());
  const uint64_t tag = readers_.StartEpoch();
  for (const auto& garbage : editor_.TakeGarbage()) {
    retired_.push_back({garbage, tag});
  }
  Reclaim();
  entry_count_.store(editor_.entry_count());
  tree_bytes_.store(editor_.bytes() + retired_.capacity() * sizeof(Retired));
}

PageStateMap::PageStateMap() : impl_(std::make_unique<Impl>()) {}
PageStateMap::~PageStateMap() = default;

absl::Status PageStateMap::Set(const GuestRange& range, PageState state) {
  if (!range.IsPageAligned()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot set the state of ", range.ToString(), ": not page-aligned"));
  }
  if (range.last().value() >= kEndAddress) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot set the state of ", range.ToString(),
                     ": it ends after 0x", absl::Hex(kEndAddress)));
  }
  if (ToBits(state) > ToBits(PageState::kAliased)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no page state has the number ", ToBits(state)));
  }
  impl_->Set(TouchedPages(range), ToBits(state));
  return absl::OkStatus();
}

PageState PageStateMap::Get(GuestAddress address) const {
  return impl_->WithRoot([&](const Node* root) {
    return FromBits(Lookup(root, address.gfn().value()));
  });
}

bool PageStateMap::ForEachRange(
    const GuestRange& range,
    absl::FunctionRef<bool(const StateRange&)> visit) const {
  return impl_->WithRoot([&](const Node* root) {
    RangeReporter reporter(range, visit);
    return VisitEntries(
               root, reporter.pages().first, reporter.pages().end,
               [&](const Entry& entry) { return reporter.AddEntry(entry); }) &&
           reporter.Finish();
  });
}

bool PageStateMap::IsWholly(const GuestRange& range, PageState state) const {
  if (state == PageState::kNotRam) {
    bool wholly = true;
    ForEachRange(range, [&](const StateRange& part) {
      wholly = part.state == PageState::kNotRam;
      return wholly;
    });
    return wholly;
  }
  return impl_->WithRoot([&](const Node* root) {
    return AllInState(root, TouchedPages(range), ToBits(state));
  });
}

uint64_t PageStateMap::CurrentGeneration() const { return impl_->generation(); }

bool PageStateMap::ChangedSince(GuestAddress address,
                                uint64_t generation) const {
  return impl_->ChangedSince(address.gfn().value(), generation);
}

uint64_t PageStateMap::bytes(PageState state) const {
  return impl_->pages(ToBits(state) & 3) << kPageShift;
}

size_t PageStateMap::entry_count() const { return impl_->entry_count(); }

size_t PageStateMap::memory_bytes() const { return impl_->memory_bytes(); }

}  // namespace cloister::memory
