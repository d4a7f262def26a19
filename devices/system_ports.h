// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_SYSTEM_PORTS_H_
#define CLOISTER_DEVICES_SYSTEM_PORTS_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/devices/bus.h"

namespace cloister::devices {

// The PC's system control port B (0x61): speaker gate, refresh toggle, timer 2.
//
// Bits 0 and 1 (timer 2 gate, speaker) are storage; bit 4 toggles at each read,
// so delay loops that count refreshes end; bit 5, timer 2's output, reads as 1
// so that no wait for it spins: Linux then rejects that calibration as too fast
// and uses another. Not needed where the hypervisor's timer handles the port.
// Thread-safe.
class Port61 : public BusDevice {
 public:
  static constexpr uint64_t kPortCount = 1;

  absl::string_view name() const override { return "port61"; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  std::atomic<uint8_t> control_{0};
  std::atomic<uint8_t> reads_{0};
};

// The PC's system control port A (0x92): bit 1 is the A20 gate, which stays on
// whatever the guest writes; a 0 to 1 change of bit 0 resets. Thread-safe.
class Port92 : public BusDevice {
 public:
  static constexpr uint64_t kPortCount = 1;

  // `on_reset` is called on a vCPU's thread.
  explicit Port92(std::function<void()> on_reset);

  absl::string_view name() const override { return "port92"; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  const std::function<void()> on_reset_;
  std::atomic<uint8_t> control_{0};
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_SYSTEM_PORTS_H_
