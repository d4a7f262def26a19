// SPDX-License-Identifier: Apache-2.0
#include "cloister/examples/dma_mapper.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace cloister::examples {

using memory::GuestAddress;
using memory::GuestRange;

absl::Status FakeDmaMapper::Map(const GuestRange& entry) {
  base::MutexLock lock(&mutex_);
  if (entries_.size() == limit_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", limit_, " entries are taken"));
  }
  const uint64_t start = entry.start().value();
  auto next = entries_.upper_bound(start);
  const bool hits_next =
      next != entries_.end() && next->first - start < entry.size();
  bool hits_previous = false;
  if (next != entries_.begin()) {
    auto previous = std::prev(next);
    hits_previous = start - previous->first < previous->second;
  }
  if (hits_next || hits_previous) {
    return absl::AlreadyExistsError(
        absl::StrCat(entry.ToString(), " overlaps an entry"));
  }
  entries_[start] = entry.size();
  peak_ = std::max(peak_, entries_.size());
  return absl::OkStatus();
}

absl::Status FakeDmaMapper::Unmap(const GuestRange& entry) {
  base::MutexLock lock(&mutex_);
  auto it = entries_.find(entry.start().value());
  if (it == entries_.end() || it->second != entry.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(entry.ToString(), " is no entry"));
  }
  entries_.erase(it);
  return absl::OkStatus();
}

std::vector<GuestRange> FakeDmaMapper::entries() {
  base::MutexLock lock(&mutex_);
  std::vector<GuestRange> ranges;
  for (const auto& [start, size] : entries_) {
    ranges.push_back(*GuestRange::Create(GuestAddress(start), size));
  }
  return ranges;
}

bool FakeDmaMapper::Reaches(GuestAddress address) {
  base::MutexLock lock(&mutex_);
  auto next = entries_.upper_bound(address.value());
  if (next == entries_.begin()) return false;
  auto entry = std::prev(next);
  return address.value() - entry->first < entry->second;
}

size_t FakeDmaMapper::peak() {
  base::MutexLock lock(&mutex_);
  return peak_;
}

}  // namespace cloister::examples
