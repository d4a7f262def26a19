// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_ACPI_PM_H_
#define CLOISTER_DEVICES_ACPI_PM_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/irq_line.h"

namespace cloister::devices {

// ACPI fixed hardware (ACPI 6.5, section 4.8) in one block of ports: PM1a event
// and control registers, PM timer, GPE0, and a reset register. The offsets
// below and the options are what the FADT must say.
//
// The platform is always in ACPI mode: SCI_EN reads as 1 and the FADT's SMI_CMD
// is 0. The timer's carry does not raise TMR_STS, and there is no sleep state
// but S5. Thread-safe.
class AcpiPm : public BusDevice {
 public:
  static constexpr uint64_t kPm1EventOffset = 0x00;    // PM1_EVT_LEN 4.
  static constexpr uint64_t kPm1ControlOffset = 0x04;  // PM1_CNT_LEN 2.
  static constexpr uint64_t kPmTimerOffset = 0x08;     // PM_TMR_LEN 4.
  static constexpr uint64_t kGpe0Offset = 0x0c;        // GPE0_BLK_LEN 4.
  static constexpr uint64_t kResetOffset = 0x10;       // RESET_REG, 8 bits.
  static constexpr uint64_t kPortCount = 0x14;
  static constexpr int kGpeCount = 16;
  static constexpr uint64_t kTimerHz = 3579545;

  struct Options {
    // SLP_TYPa of S5, as the DSDT's \_S5 says.
    uint8_t s5_sleep_type = 5;
    // The FADT's RESET_VALUE.
    uint8_t reset_value = 1;
    // True iff the FADT has TMR_VAL_EXT; else the timer has 24 bits.
    bool timer_32_bit = false;
    // Time for the PM timer, which starts at 0 with the object; the steady
    // clock if empty. Any thread.
    std::function<std::chrono::nanoseconds()> clock;
    // Called on a vCPU's thread, without a lock, each time the guest asks.
    // Both are required.
    std::function<void()> on_power_off;
    std::function<void()> on_reset;
  };

  // `sci` (level semantics) must outlive the object.
  AcpiPm(Options options, IrqLine& sci);

  absl::string_view name() const override { return "acpi-pm"; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

  // Sets PWRBTN_STS; the guest gets an SCI once it has enabled the button.
  // False if it has not (yet), so that the caller can choose another way.
  bool PressPowerButton();

  // Sets bit `gpe` of GPE0_STS, for hotplug and the like; out of range is
  // ignored.
  void RaiseGpe(int gpe);

 private:
  enum class Request { kNone, kPowerOff, kReset };

  uint8_t ReadByte(uint64_t offset, uint32_t timer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Request WriteByte(uint64_t offset, uint8_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Request WriteControlHigh(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t TimerValue() const;
  void UpdateSci() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  IrqLine& sci_;
  const std::chrono::nanoseconds start_;

  base::Mutex mutex_;
  // Bytes of status registers clear by writing ones.
  std::array<uint8_t, 2> pm1_status_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<uint8_t, 2> pm1_enable_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<uint8_t, 2> pm1_control_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<uint8_t, 2> gpe_status_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<uint8_t, 2> gpe_enable_ ABSL_GUARDED_BY(mutex_) = {};
  bool sci_level_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_ACPI_PM_H_
