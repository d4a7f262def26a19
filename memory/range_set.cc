// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/range_set.h"

#include <algorithm>
#include <iterator>

namespace cloister::memory {
namespace {

uint64_t StartOf(const GuestRange& range) { return range.start().value(); }
uint64_t EndOf(const GuestRange& range) { return range.last().value() + 1; }

GuestRange Between(uint64_t start, uint64_t end) {
  return *GuestRange::Create(GuestAddress(start), end - start);
}

}  // namespace

RangeSet::Ends::const_iterator RangeSet::FirstEndingAfter(
    uint64_t address) const {
  Ends::const_iterator it = ends_.upper_bound(address);
  if (it != ends_.begin() && std::prev(it)->second > address) --it;
  return it;
}

void RangeSet::Add(const GuestRange& range) {
  uint64_t start = StartOf(range);
  uint64_t end = EndOf(range);
  // Swallow what overlaps or touches.
  auto it = FirstEndingAfter(start == 0 ? 0 : start - 1);
  while (it != ends_.end() && it->first <= end) {
    start = std::min(start, it->first);
    end = std::max(end, it->second);
    bytes_ -= it->second - it->first;
    it = ends_.erase(it);
  }
  ends_.emplace(start, end);
  bytes_ += end - start;
}

void RangeSet::Remove(const GuestRange& range) {
  const uint64_t start = StartOf(range);
  const uint64_t end = EndOf(range);
  auto it = FirstEndingAfter(start);
  while (it != ends_.end() && it->first < end) {
    const auto [old_start, old_end] = *it;
    bytes_ -= std::min(old_end, end) - std::max(old_start, start);
    it = ends_.erase(it);
    if (old_start < start) ends_.emplace(old_start, start);
    if (old_end > end) ends_.emplace(end, old_end);
  }
}

bool RangeSet::Overlaps(const GuestRange& range) const {
  auto it = FirstEndingAfter(StartOf(range));
  return it != ends_.end() && it->first < EndOf(range);
}

std::vector<GuestRange> RangeSet::Inside(const GuestRange& range) const {
  std::vector<GuestRange> result;
  const uint64_t end = EndOf(range);
  for (auto it = FirstEndingAfter(StartOf(range));
       it != ends_.end() && it->first < end; ++it) {
    result.push_back(Between(std::max(it->first, StartOf(range)),
                             std::min(it->second, end)));
  }
  return result;
}

std::vector<GuestRange> RangeSet::Outside(const GuestRange& range) const {
  std::vector<GuestRange> result;
  uint64_t at = StartOf(range);
  for (const GuestRange& inside : Inside(range)) {
    if (at < StartOf(inside)) result.push_back(Between(at, StartOf(inside)));
    at = EndOf(inside);
  }
  if (at < EndOf(range)) result.push_back(Between(at, EndOf(range)));
  return result;
}

std::vector<GuestRange> RangeSet::All() const {
  std::vector<GuestRange> result;
  for (const auto& [start, end] : ends_) result.push_back(Between(start, end));
  return result;
}

}  // namespace cloister::memory
