// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/exit_counters.h"

namespace cloister::vcpu {

absl::string_view ExitKindName(ExitKind kind) {
  switch (kind) {
    case ExitKind::kPortRead:
      return "port_read";
    case ExitKind::kPortWrite:
      return "port_write";
    case ExitKind::kMmioRead:
      return "mmio_read";
    case ExitKind::kMmioWrite:
      return "mmio_write";
    case ExitKind::kHypercall:
      return "hypercall";
    case ExitKind::kMemoryFault:
      return "memory_fault";
    case ExitKind::kMsrRead:
      return "msr_read";
    case ExitKind::kMsrWrite:
      return "msr_write";
    case ExitKind::kApicEoi:
      return "apic_eoi";
    case ExitKind::kSystemEvent:
      return "system_event";
    case ExitKind::kHalt:
      return "halt";
    case ExitKind::kShutdown:
      return "shutdown";
    case ExitKind::kInternalError:
      return "internal_error";
    case ExitKind::kOther:
      return "other";
    case ExitKind::kInterrupted:
      return "interrupted";
    case ExitKind::kRetry:
      return "retry";
    case ExitKind::kNoMemory:
      return "no_memory";
  }
  return "unknown";
}

uint64_t ExitCounters::Snapshot::total() const {
  uint64_t sum = 0;
  for (uint64_t count : counts) sum += count;
  return sum;
}

ExitCounters::Snapshot ExitCounters::Read() const {
  Snapshot snapshot;
  for (size_t i = 0; i < kExitKinds; ++i) {
    snapshot.counts[i] = counts_[i].load(std::memory_order_relaxed);
  }
  snapshot.last = last_.load(std::memory_order_relaxed);
  return snapshot;
}

}  // namespace cloister::vcpu
