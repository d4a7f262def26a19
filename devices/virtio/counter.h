// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_COUNTER_H_
#define CLOISTER_DEVICES_VIRTIO_COUNTER_H_

#include <atomic>
#include <cstdint>

namespace cloister::devices::virtio {

// Counts events on one thread, or several, for others to read. Only grows.
class Counter {
 public:
  void Add(uint64_t amount = 1) {
    value_.fetch_add(amount, std::memory_order_relaxed);
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_COUNTER_H_
