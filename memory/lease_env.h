// SPDX-License-Identifier: Apache-2.0
//
// What BasicLeaseTable needs from the machine: atomics, zeroed memory, waiting.
// Internal to memory/.
#ifndef CLOISTER_MEMORY_LEASE_ENV_H_
#define CLOISTER_MEMORY_LEASE_ENV_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "cloister/base/mutex.h"

namespace cloister::memory {

// An anonymous mapping that reads as zeroes and uses memory only where it was
// written. Move-only; unmaps when destroyed.
class ZeroPages {
 public:
  // ResourceExhausted if the kernel refuses.
  static absl::StatusOr<ZeroPages> Create(size_t bytes);
  ZeroPages(ZeroPages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ZeroPages& operator=(ZeroPages&&) = delete;
  ~ZeroPages();

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  ZeroPages(void* data, size_t bytes) : data_(data), bytes_(bytes) {}

  void* data_;
  size_t bytes_;
};

// Wakes threads that wait for leases to end. Nothing is lost: a lease that ends
// after Epoch() was read makes WaitPast() of that epoch return, provided that
// the waiter was registered before it looked at the counters.
class LeaseNotifier {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  void AddWaiter() { waiters_.fetch_add(1, std::memory_order_seq_cst); }
  void RemoveWaiter() { waiters_.fetch_sub(1, std::memory_order_seq_cst); }
  // For whoever ends a lease: cheap while nobody waits.
  bool HasWaiters() const {
    return waiters_.load(std::memory_order_seq_cst) != 0;
  }
  void Notify();

  uint64_t Epoch();
  // False once `deadline` has passed.
  bool WaitPast(uint64_t epoch, Deadline deadline);

 private:
  std::atomic<int> waiters_{0};
  base::Mutex mutex_;
  base::CondVar changed_;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The real machine.
struct RealLeaseEnv {
  using Notifier = LeaseNotifier;

  // Log2 pages of the blocks that have counters: 4 KiB, 64 KiB, 2 MiB.
  static constexpr std::array<int, 3> kLevelShifts = {0, 4, 9};
  // The order of either side's steps. Only a test turns them round, to show
  // that it would notice.
  static constexpr bool kLeaseChecksFirst = false;
  static constexpr bool kConversionWaitsFirst = false;

  template <typename T>
  static T Load(T* cell) {
    return std::atomic_ref<T>(*cell).load(std::memory_order_seq_cst);
  }
  template <typename T>
  static void Add(T* cell, T value) {
    std::atomic_ref<T>(*cell).fetch_add(value, std::memory_order_seq_cst);
  }
  template <typename T>
  static void SetBits(T* cell, T bits) {
    std::atomic_ref<T>(*cell).fetch_or(bits, std::memory_order_seq_cst);
  }
  template <typename T>
  static void ClearBits(T* cell, T bits) {
    std::atomic_ref<T>(*cell).fetch_and(static_cast<T>(~bits),
                                        std::memory_order_seq_cst);
  }
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_LEASE_ENV_H_
