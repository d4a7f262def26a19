// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_RANGE_SET_H_
#define CLOISTER_MEMORY_RANGE_SET_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "cloister/memory/guest_address.h"

namespace cloister::memory {

// A set of guest addresses below 2^63, kept as maximal ranges. For small sets:
// O(log n) each, and one tree node for each range. Not thread-safe.
class RangeSet {
 public:
  void Add(const GuestRange& range);
  void Remove(const GuestRange& range);
  void Clear() { ends_.clear(), bytes_ = 0; }

  bool Overlaps(const GuestRange& range) const;
  // The parts of `range` that are in the set, resp. are not; ascending.
  std::vector<GuestRange> Inside(const GuestRange& range) const;
  std::vector<GuestRange> Outside(const GuestRange& range) const;
  std::vector<GuestRange> All() const;

  bool empty() const { return ends_.empty(); }
  size_t range_count() const { return ends_.size(); }
  uint64_t bytes() const { return bytes_; }

 private:
  using Ends = std::map<uint64_t, uint64_t>;  // start to end (exclusive)
  // The first range that ends after `address`.
  Ends::const_iterator FirstEndingAfter(uint64_t address) const;

  Ends ends_;
  uint64_t bytes_ = 0;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_RANGE_SET_H_
