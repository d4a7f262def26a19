// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PAGE_STATE_MAP_READERS_H_
#define CLOISTER_MEMORY_PAGE_STATE_MAP_READERS_H_

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace cloister::memory::page_state_internal {

// Who is reading, so that writers know when replaced memory may be freed:
// epoch-based reclamation without thread registration and without waiting.
//
// A reader announces itself with the current epoch, then loads the root. A
// writer publishes a new root, then starts a new epoch with StartEpoch() and
// tags what the old root alone reached with the result. The garbage may be
// freed once Oldest() has reached its tag: any reader that announced an earlier
// epoch is gone, and one that the scan has not seen announced itself after it,
// so it loads the new root. This relies on the single order of sequentially
// consistent operations: announce before load, publish before scan.
class ReaderSlots {
 public:
  // Announced while it lives. Neither copied nor moved.
  class Guard {
   public:
    explicit Guard(ReaderSlots* slots) : slots_(slots), slot_(slots->Enter()) {}
    ~Guard() { slots_->Leave(slot_); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    ReaderSlots* const slots_;
    const size_t slot_;
  };

  // Call after publishing; returns the tag.
  uint64_t StartEpoch() { return epoch_.fetch_add(1) + 1; }

  // The epoch of the earliest reader, UINT64_MAX without readers; 0 while there
  // are more readers than slots and nothing may be freed.
  uint64_t Oldest() const {
    uint64_t oldest = overflow_.load() == 0 ? UINT64_MAX : 0;
    for (const Slot& slot : slots_) {
      uint64_t epoch = slot.epoch.load();
      if (epoch != 0 && epoch < oldest) oldest = epoch;
    }
    return oldest;
  }

 private:
  static constexpr size_t kSlots = 32;
  static constexpr size_t kProbes = 8;
  static constexpr size_t kOverflow = kSlots;
  // A cache line each, so that readers on different CPUs do not disturb each
  // other.
  struct alignas(64) Slot {
    std::atomic<uint64_t> epoch{0};  // 0: free.
  };

  size_t Enter() {
    const uint64_t epoch = epoch_.load();
    // Threads have distinct handles, so most find a slot of their own at once.
    size_t hash = static_cast<uint64_t>(::pthread_self()) *
                      uint64_t{0x9e3779b97f4a7c15} >>
                  32;
    for (size_t probe = 0; probe < kProbes; ++probe) {
      size_t slot = (hash + probe) % kSlots;
      uint64_t free = 0;
      if (slots_[slot].epoch.compare_exchange_strong(free, epoch)) return slot;
    }
    overflow_.fetch_add(1);
    return kOverflow;
  }
  void Leave(size_t slot) {
    if (slot == kOverflow) {
      overflow_.fetch_sub(1, std::memory_order_release);
    } else {
      slots_[slot].epoch.store(0, std::memory_order_release);
    }
  }

  std::atomic<uint64_t> epoch_{1};
  std::atomic<uint64_t> overflow_{0};
  std::array<Slot, kSlots> slots_;
};

}  // namespace cloister::memory::page_state_internal

#endif  // CLOISTER_MEMORY_PAGE_STATE_MAP_READERS_H_
