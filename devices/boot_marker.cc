// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/boot_marker.h"

#include <algorithm>
#include <utility>

namespace cloister::devices {

BootMarker::BootMarker(Options options) : options_(std::move(options)) {}

void BootMarker::Read(uint64_t, absl::Span<uint8_t> data) {
  std::fill(data.begin(), data.end(), uint8_t{0xff});
}

void BootMarker::Write(uint64_t, absl::Span<const uint8_t> data) {
  const auto now = std::chrono::steady_clock::now();
  for (uint8_t value : data) {
    if (options_.only_value >= 0 && value != options_.only_value) continue;
    {
      base::MutexLock lock(&mutex_);
      if (seen_.test(value)) continue;
      seen_.set(value);
    }
    options_.on_marker(value, now);
  }
}

}  // namespace cloister::devices
