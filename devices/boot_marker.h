// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_BOOT_MARKER_H_
#define CLOISTER_DEVICES_BOOT_MARKER_H_

#include <bitset>
#include <chrono>
#include <cstdint>
#include <functional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"

namespace cloister::devices {

// A one-byte port by which a guest says how far its boot has come.
//
// Reads return all ones. Each byte value is reported once, so a guest causes at
// most 256 calls, and fewer if Options::only_value is set. Thread-safe.
class BootMarker : public BusDevice {
 public:
  static constexpr uint64_t kPortCount = 1;

  // `when` is the time at which the write reached the device.
  using Callback = std::function<void(
      uint8_t value, std::chrono::steady_clock::time_point when)>;

  struct Options {
    // Report this value alone; any other write is ignored. Negative: any.
    int only_value = -1;
    // Called on a vCPU's thread without a lock. Required; must not block.
    Callback on_marker;
  };

  explicit BootMarker(Options options);

  absl::string_view name() const override { return "boot-marker"; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  const Options options_;
  base::Mutex mutex_;
  std::bitset<256> seen_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_BOOT_MARKER_H_
