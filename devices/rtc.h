// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_RTC_H_
#define CLOISTER_DEVICES_RTC_H_

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"

namespace cloister::devices {

// The PC's real-time clock and CMOS RAM (Motorola MC146818A): an index port and
// a data port, usually 0x70 and 0x71, and 128 bytes behind them.
//
// The guest may set the time; that moves its own clock, never the host's. The
// date is Gregorian, with the century in CMOS byte 0x32 (FADT CENTURY). Status
// A never shows an update in progress, so a driver that waits for one to end
// does not wait. Alarm registers are storage and the square wave, periodic,
// alarm and update interrupts do not exist: Linux reads the time at boot and on
// hwclock(8) by polling, and schedules nothing by IRQ 8.
// Thread-safe.
class Rtc : public BusDevice {
 public:
  static constexpr uint64_t kPortCount = 2;

  struct Options {
    // Seconds since 1970 UTC; the host's clock if empty. Any thread.
    std::function<int64_t()> unix_time;
    // Sizes of RAM, in bytes, that CMOS reports (0x15-0x18, 0x30-0x35,
    // 0x5b-0x5d).
    uint64_t ram_below_4gib = 0;
    uint64_t ram_above_4gib = 0;
  };

  explicit Rtc(Options options);

  absl::string_view name() const override { return "rtc"; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  uint8_t ReadRegister() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegister(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StoreMemorySizes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool stopped() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::tm GuestTime() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetGuestTime(std::tm time) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t TimeField(const std::tm& time, uint8_t index) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetTimeField(std::tm& time, uint8_t index, uint8_t value) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteStatusB(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t Encode(int value) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Decode(uint8_t value) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  base::Mutex mutex_;
  uint8_t index_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint8_t, 128> ram_ ABSL_GUARDED_BY(mutex_) = {};
  int64_t offset_seconds_ ABSL_GUARDED_BY(mutex_) = 0;
  // The time that stands still while status B has SET.
  std::tm frozen_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_RTC_H_
