// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/boot_timer.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace cloister::vmm {
namespace {

double Milliseconds(BootTimer::Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

void BootTimer::Reached(absl::string_view phase, Clock::time_point when) {
  base::MutexLock lock(&mutex_);
  auto same = [phase](const auto& entry) { return entry.first == phase; };
  if (std::any_of(phases_.begin(), phases_.end(), same)) return;
  phases_.emplace_back(std::string(phase), when);
}

std::string BootTimer::Report() const {
  base::MutexLock lock(&mutex_);
  std::string text;
  Clock::time_point previous = start_;
  for (const auto& [phase, when] : phases_) {
    absl::StrAppendFormat(&text, "%10.1f ms %+9.1f ms  %s\n",
                          Milliseconds(when - start_),
                          Milliseconds(when - previous), phase);
    previous = when;
  }
  return text;
}

std::vector<std::pair<std::string, std::chrono::nanoseconds>>
BootTimer::Phases() const {
  base::MutexLock lock(&mutex_);
  std::vector<std::pair<std::string, std::chrono::nanoseconds>> phases;
  for (const auto& [phase, when] : phases_) {
    phases.emplace_back(phase, when - start_);
  }
  return phases;
}

}  // namespace cloister::vmm
