// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_EXIT_COUNTERS_H_
#define CLOISTER_VCPU_EXIT_COUNTERS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace cloister::vcpu {

// Why a vCPU's KVM_RUN returned, as counted.
enum class ExitKind {
  kPortRead,
  kPortWrite,
  kMmioRead,
  kMmioWrite,
  kHypercall,
  kMemoryFault,
  kMsrRead,
  kMsrWrite,
  kApicEoi,
  kSystemEvent,
  kHalt,
  kShutdown,
  kInternalError,
  kOther,
  // Not exits of the guest: a signal or immediate_exit; not runnable yet;
  // spurious lack of memory, retried.
  kInterrupted,
  kRetry,
  kNoMemory,
};
inline constexpr size_t kExitKinds =
    static_cast<size_t>(ExitKind::kNoMemory) + 1;

// "port_read", as statistics name it.
absl::string_view ExitKindName(ExitKind kind);

// Counters of one vCPU: one thread counts, any thread reads. Each number is
// exact; numbers read together may stem from different moments.
class ExitCounters {
 public:
  struct Snapshot {
    std::array<uint64_t, kExitKinds> counts = {};
    ExitKind last = ExitKind::kInterrupted;  // Meaningless if nothing counted.

    uint64_t operator[](ExitKind kind) const {
      return counts[static_cast<size_t>(kind)];
    }
    uint64_t total() const;
  };

  void Count(ExitKind kind) {
    std::atomic<uint64_t>& counter = counts_[static_cast<size_t>(kind)];
    // One writer: no read-modify-write needed.
    counter.store(counter.load(std::memory_order_relaxed) + 1,
                  std::memory_order_relaxed);
    last_.store(kind, std::memory_order_relaxed);
  }
  Snapshot Read() const;

 private:
  std::array<std::atomic<uint64_t>, kExitKinds> counts_ = {};
  std::atomic<ExitKind> last_ = ExitKind::kInterrupted;
};

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_EXIT_COUNTERS_H_
