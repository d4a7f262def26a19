// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_BOOT_TIMER_H_
#define CLOISTER_VMM_BOOT_TIMER_H_

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "cloister/base/mutex.h"

namespace cloister::vmm {

// Wall-clock times of a VM's start, phase by phase. Thread-safe.
class BootTimer {
 public:
  using Clock = std::chrono::steady_clock;

  explicit BootTimer(Clock::time_point start) : start_(start) {}

  Clock::time_point start() const { return start_; }

  // Notes that `phase` was reached; only the first time of each counts.
  void Reached(absl::string_view phase, Clock::time_point when = Clock::now());

  // The phases in order, and how long after `start` each was reached.
  std::vector<std::pair<std::string, std::chrono::nanoseconds>> Phases() const;

  // One line per phase in order: "   12.3 ms  +1.2 ms  VM created".
  std::string Report() const;

 private:
  const Clock::time_point start_;
  mutable base::Mutex mutex_;
  std::vector<std::pair<std::string, Clock::time_point>> phases_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_BOOT_TIMER_H_
