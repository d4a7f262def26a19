// SPDX-License-Identifier: Apache-2.0
//
// How many bytes are leased, for metrics. Internal to memory/: ask SharedView.
#ifndef CLOISTER_MEMORY_LEASE_GAUGE_H_
#define CLOISTER_MEMORY_LEASE_GAUGE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cloister/memory/guest_address.h"

namespace cloister::memory {

// The sum of the sizes of all leases that exist. LeaseCounters know each page,
// and a sum over them would take longer the more memory a guest has; this one
// costs a lease two additions, and a reader 64 loads.
//
// The sums are spread by address, so that leases on different pages seldom
// share a cache line. Both ends of a lease go to the same one: no part of the
// total is ever negative. Thread-safe, lock-free; a total that is read while
// leases come and go contains each of them or does not.
class LeaseGauge {
 public:
  void Add(const GuestRange& range) {
    PartOf(range).fetch_add(range.size(), std::memory_order_relaxed);
  }
  // Once for each Add, with the same range.
  void Subtract(const GuestRange& range) {
    PartOf(range).fetch_sub(range.size(), std::memory_order_relaxed);
  }

  // In bytes; what two leases name counts twice.
  uint64_t Total() const {
    uint64_t total = 0;
    for (const Part& part : parts_) {
      total += part.bytes.load(std::memory_order_relaxed);
    }
    return total;
  }

 private:
  static constexpr size_t kParts = 64;
  struct alignas(64) Part {
    std::atomic<uint64_t> bytes{0};
  };

  std::atomic<uint64_t>& PartOf(const GuestRange& range) {
    return parts_[range.start().gfn().value() % kParts].bytes;
  }

  std::array<Part, kParts> parts_;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_LEASE_GAUGE_H_
