// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/acpi_pm.h"

#include <utility>

namespace cloister::devices {
namespace {

// PM1 status, enable and control, by byte (ACPI 6.5, tables 4.11 to 4.13).
constexpr uint8_t kPowerButtonHigh = 0x01;  // Bit 8.
constexpr uint8_t kSciEnable = 0x01;
constexpr uint8_t kGlobalRelease = 0x04;    // Write-only.
constexpr uint8_t kSleepEnableHigh = 0x20;  // Bit 13, write-only.
constexpr int kSleepTypeShiftHigh = 2;      // Bits 10 to 12.
constexpr uint8_t kSleepTypeMask = 0x07;

std::chrono::nanoseconds SteadyNow() {
  return std::chrono::steady_clock::now().time_since_epoch();
}

}  // namespace

AcpiPm::AcpiPm(Options options, IrqLine& sci)
    : options_(std::move(options)),
      sci_(sci),
      start_(options_.clock ? options_.clock() : SteadyNow()) {}

void AcpiPm::Read(uint64_t offset, absl::Span<uint8_t> data) {
  // One sample for all bytes of the access.
  const uint32_t timer = TimerValue();
  base::MutexLock lock(&mutex_);
  for (uint8_t& byte : data) byte = ReadByte(offset++, timer);
}

void AcpiPm::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  for (uint8_t byte : data) {
    Request request;
    {
      base::MutexLock lock(&mutex_);
      request = WriteByte(offset++, byte);
      UpdateSci();
    }
    if (request == Request::kPowerOff) options_.on_power_off();
    if (request == Request::kReset) options_.on_reset();
  }
}

uint8_t AcpiPm::ReadByte(uint64_t offset, uint32_t timer) {
  switch (offset) {
    case kPm1EventOffset:
    case kPm1EventOffset + 1:
      return pm1_status_[offset - kPm1EventOffset];
    case kPm1EventOffset + 2:
    case kPm1EventOffset + 3:
      return pm1_enable_[offset - kPm1EventOffset - 2];
    case kPm1ControlOffset:
      return pm1_control_[0] | kSciEnable;
    case kPm1ControlOffset + 1:
      return pm1_control_[1];
    case kPmTimerOffset:
    case kPmTimerOffset + 1:
    case kPmTimerOffset + 2:
    case kPmTimerOffset + 3:
      return static_cast<uint8_t>(timer >> (8 * (offset - kPmTimerOffset)));
    case kGpe0Offset:
    case kGpe0Offset + 1:
      return gpe_status_[offset - kGpe0Offset];
    case kGpe0Offset + 2:
    case kGpe0Offset + 3:
      return gpe_enable_[offset - kGpe0Offset - 2];
    default:
      return 0;
  }
}

AcpiPm::Request AcpiPm::WriteByte(uint64_t offset, uint8_t value) {
  switch (offset) {
    case kPm1EventOffset:
    case kPm1EventOffset + 1:
      pm1_status_[offset - kPm1EventOffset] &= ~value;
      return Request::kNone;
    case kPm1EventOffset + 2:
    case kPm1EventOffset + 3:
      pm1_enable_[offset - kPm1EventOffset - 2] = value;
      return Request::kNone;
    case kPm1ControlOffset:
      pm1_control_[0] = value & ~kGlobalRelease;
      return Request::kNone;
    case kPm1ControlOffset + 1:
      return WriteControlHigh(value);
    case kGpe0Offset:
    case kGpe0Offset + 1:
      gpe_status_[offset - kGpe0Offset] &= ~value;
      return Request::kNone;
    case kGpe0Offset + 2:
    case kGpe0Offset + 3:
      gpe_enable_[offset - kGpe0Offset - 2] = value;
      return Request::kNone;
    case kResetOffset:
      return value == options_.reset_value ? Request::kReset : Request::kNone;
    default:
      return Request::kNone;
  }
}

AcpiPm::Request AcpiPm::WriteControlHigh(uint8_t value) {
  pm1_control_[1] = value & ~kSleepEnableHigh;
  const uint8_t type = (value >> kSleepTypeShiftHigh) & kSleepTypeMask;
  const bool sleep = (value & kSleepEnableHigh) != 0;
  return sleep && type == options_.s5_sleep_type ? Request::kPowerOff
                                                 : Request::kNone;
}

uint32_t AcpiPm::TimerValue() const {
  const std::chrono::nanoseconds now =
      options_.clock ? options_.clock() : SteadyNow();
  const uint64_t elapsed = static_cast<uint64_t>((now - start_).count());
  // In two parts, so that the product fits for any uptime.
  constexpr uint64_t kSecond = 1'000'000'000;
  const uint64_t ticks =
      elapsed / kSecond * kTimerHz + elapsed % kSecond * kTimerHz / kSecond;
  return static_cast<uint32_t>(options_.timer_32_bit ? ticks
                                                     : ticks & 0xffffff);
}

void AcpiPm::UpdateSci() {
  bool level = false;
  for (int i = 0; i < 2; ++i) {
    level |= (pm1_status_[i] & pm1_enable_[i]) != 0;
    level |= (gpe_status_[i] & gpe_enable_[i]) != 0;
  }
  if (level == sci_level_) return;
  sci_level_ = level;
  sci_.SetLevel(level);
}

bool AcpiPm::PressPowerButton() {
  base::MutexLock lock(&mutex_);
  pm1_status_[1] |= kPowerButtonHigh;
  UpdateSci();
  return (pm1_enable_[1] & kPowerButtonHigh) != 0;
}

void AcpiPm::RaiseGpe(int gpe) {
  if (gpe < 0 || gpe >= kGpeCount) return;
  base::MutexLock lock(&mutex_);
  gpe_status_[gpe / 8] |= static_cast<uint8_t>(1u << (gpe % 8));
  UpdateSci();
}

}  // namespace cloister::devices
