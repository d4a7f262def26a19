// SPDX-License-Identifier: Apache-2.0
#include "cloister/examples/dma_mirror.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace cloister::examples {

using memory::ConversionSet;
using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using memory::StateRange;

namespace {

uint64_t Start(const GuestRange& range) { return range.start().value(); }
uint64_t End(const GuestRange& range) { return range.last().value() + 1; }
GuestRange Range(uint64_t start, uint64_t end) {
  return *GuestRange::Create(GuestAddress(start), end - start);
}

bool Overlap(const GuestRange& a, const GuestRange& b) {
  return Start(a) < End(b) && Start(b) < End(a);
}

}  // namespace

// --- how many entries it may take ---

size_t DmaMirror::EntriesToShare(const std::vector<GuestRange>& ranges) const {
  size_t blocks = 0;
  for (const GuestRange& range : ranges) {
    blocks += (End(range) - 1) / block_ - Start(range) / block_ + 1;
  }
  return blocks;
}

// Chunks come in ascending order, so a range splits one entry at most: that in
// which it begins. A chunk that could not be converted comes back as the part
// of an entry that it was.
size_t DmaMirror::EntriesToTakeBack(const std::vector<GuestRange>& ranges) {
  size_t splits = 0;
  for (const GuestRange& range : ranges) {
    auto entry = entries_.lower_bound(Start(range));
    if (entry != entries_.begin() &&
        std::prev(entry)->second.end > Start(range)) {
      ++splits;
    }
  }
  return splits;
}

size_t DmaMirror::Free() const {
  const size_t taken = entries_.size() + reserved_;
  return taken < mapper_->entry_limit() ? mapper_->entry_limit() - taken : 0;
}

absl::Status DmaMirror::Prepare(const ConversionSet& set) {
  base::MutexLock lock(&mutex_);
  if (!fatal_.ok()) return fatal_;
  const size_t needed = set.to == PageState::kShared
                            ? EntriesToShare(set.ranges)
                            : EntriesToTakeBack(set.ranges);
  const size_t free = Free();
  if (needed > free) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "dma: ", set.ranges.size(), " ranges may take ", needed,
        " entries, and ", free, " of ", mapper_->entry_limit(), " are free"));
  }
  reserved_ += needed;
  open_[set.id] = {set.to, set.ranges, set.bytes(), needed};
  return absl::OkStatus();
}

// --- changes ---

void DmaMirror::Note(const absl::Status& status) {
  if (!status.ok() && fatal_.ok()) fatal_ = status;
}

void DmaMirror::Add(uint64_t start, uint64_t end, OpenSet* set) {
  Sync(entries_.emplace(start, Entry{end, /*mapped=*/false}).first);
  if (set == nullptr) return;
  if (set->reserved == 0) {
    Note(absl::InternalError("dma: more entries than were reserved"));
    return;
  }
  --set->reserved;
  --reserved_;
}

// What a set gives up stays reserved for it: the pages may come back.
void DmaMirror::Remove(Entries::iterator entry, OpenSet* set) {
  if (entry->second.mapped) {
    Note(mapper_->Unmap(Range(entry->first, entry->second.end)));
  }
  entries_.erase(entry);
  if (set == nullptr) return;
  ++set->reserved;
  ++reserved_;
}

void DmaMirror::Sync(Entries::iterator entry) {
  const GuestRange range = Range(entry->first, entry->second.end);
  const bool wanted = std::none_of(
      replaced_.begin(), replaced_.end(),
      [&](const GuestRange& replaced) { return Overlap(replaced, range); });
  if (wanted == entry->second.mapped) return;
  const absl::Status status =
      wanted ? mapper_->Map(range) : mapper_->Unmap(range);
  Note(status);
  if (status.ok()) entry->second.mapped = wanted;
}

DmaMirror::Entries::iterator DmaMirror::FirstOf(const GuestRange& range) {
  auto entry = entries_.upper_bound(Start(range));
  if (entry != entries_.begin() &&
      std::prev(entry)->second.end > Start(range)) {
    --entry;
  }
  return entry;
}

void DmaMirror::SyncAll(const GuestRange& range) {
  for (auto entry = FirstOf(range);
       entry != entries_.end() && entry->first < End(range); ++entry) {
    Sync(entry);
  }
}

void DmaMirror::AddBlocks(const GuestRange& range, OpenSet* set) {
  for (uint64_t at = Start(range); at < End(range);) {
    const uint64_t end = std::min((at / block_ + 1) * block_, End(range));
    Add(at, end, set);
    at = end;
  }
}

DmaMirror::OpenSet* DmaMirror::FindSet(const GuestRange& chunk) {
  for (auto& [id, set] : open_) {
    for (const GuestRange& range : set.ranges) {
      if (Overlap(range, chunk)) return &set;
    }
  }
  return nullptr;
}

void DmaMirror::UnmapShared(const GuestRange& chunk) noexcept {
  base::MutexLock lock(&mutex_);
  OpenSet* set = FindSet(chunk);
  if (set == nullptr) {
    replaced_.push_back(chunk);
    SyncAll(chunk);
    return;
  }
  auto entry = FirstOf(chunk);
  while (entry != entries_.end() && entry->first < End(chunk)) {
    const uint64_t start = entry->first;
    const uint64_t end = entry->second.end;
    Remove(entry, set);
    if (start < Start(chunk)) Add(start, Start(chunk), set);
    if (end > End(chunk)) Add(End(chunk), end, set);
    entry = entries_.lower_bound(end);
  }
}

// Pages that turn shared are mapped by Commit, in pieces as large as they get.
void DmaMirror::MapShared(const GuestRange& chunk) noexcept {
  base::MutexLock lock(&mutex_);
  OpenSet* set = FindSet(chunk);
  if (set == nullptr) {
    std::erase(replaced_, chunk);
    SyncAll(chunk);
  } else if (set->to == PageState::kPrivate) {
    // Joined again with what is left of the entries on both sides.
    AddBlocks(Joined(chunk, set), set);
  }
}

GuestRange DmaMirror::Joined(const GuestRange& chunk, OpenSet* set) {
  uint64_t start = Start(chunk);
  uint64_t end = End(chunk);
  auto right = entries_.find(end);
  if (right != entries_.end() && end % block_ != 0) {
    end = right->second.end;
    Remove(right, set);
  }
  auto left = entries_.lower_bound(start);
  if (left != entries_.begin() && start % block_ != 0 &&
      std::prev(left)->second.end == start) {
    --left;
    start = left->first;
    Remove(left, set);
  }
  return Range(start, end);
}

void DmaMirror::Settle(const ConversionSet& part) {
  auto it = open_.find(part.id);
  if (it == open_.end()) return;
  OpenSet& set = it->second;
  set.bytes_left -= std::min(set.bytes_left, part.bytes());
  if (set.bytes_left != 0) return;
  reserved_ -= set.reserved;
  open_.erase(it);
}

void DmaMirror::Commit(const ConversionSet& part) noexcept {
  base::MutexLock lock(&mutex_);
  auto it = open_.find(part.id);
  if (it != open_.end() && part.to == PageState::kShared) {
    for (const GuestRange& range : part.ranges) AddBlocks(range, &it->second);
  }
  Settle(part);
}

void DmaMirror::Rollback(const ConversionSet& part) noexcept {
  base::MutexLock lock(&mutex_);
  Settle(part);
}

// --- outside of conversions ---

absl::Status DmaMirror::MapExisting(const memory::PageStateMap& states,
                                    const GuestRange& range) {
  std::vector<GuestRange> shared;
  states.ForEachRange(range, [&](const StateRange& part) {
    if (part.state == PageState::kShared) shared.push_back(part.range);
    return true;
  });
  base::MutexLock lock(&mutex_);
  const size_t needed = EntriesToShare(shared);
  const size_t free = Free();
  if (needed > free) {
    return absl::ResourceExhaustedError(
        absl::StrCat("dma: what is shared takes ", needed, " entries, and ",
                     free, " of ", mapper_->entry_limit(), " are free"));
  }
  for (const GuestRange& part : shared) AddBlocks(part, nullptr);
  return fatal_;
}

void DmaMirror::Compact() {
  base::MutexLock lock(&mutex_);
  for (auto first = entries_.begin(); first != entries_.end();) {
    // Up to the end of the entries that touch and share a block.
    const uint64_t start = first->first;
    uint64_t end = first->second.end;
    auto next = std::next(first);
    while (next != entries_.end() && next->first == end &&
           next->first / block_ == start / block_) {
      end = next->second.end;
      ++next;
    }
    if (next == std::next(first)) {
      first = next;
      continue;
    }
    while (first != next) Remove(first++, nullptr);
    Add(start, end, nullptr);
    first = entries_.upper_bound(start);
  }
}

size_t DmaMirror::entries() {
  base::MutexLock lock(&mutex_);
  return entries_.size();
}

size_t DmaMirror::reserved() {
  base::MutexLock lock(&mutex_);
  return reserved_;
}

absl::Status DmaMirror::fatal() {
  base::MutexLock lock(&mutex_);
  return fatal_;
}

}  // namespace cloister::examples
