// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/rtc.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace cloister::devices {
namespace {

// MC146818A, "Address map"; the century and the sizes are the PC's.
constexpr uint8_t kSeconds = 0x00;
constexpr uint8_t kMinutes = 0x02;
constexpr uint8_t kHours = 0x04;
constexpr uint8_t kWeekday = 0x06;
constexpr uint8_t kDay = 0x07;
constexpr uint8_t kMonth = 0x08;
constexpr uint8_t kYear = 0x09;
constexpr uint8_t kStatusA = 0x0a;
constexpr uint8_t kStatusB = 0x0b;
constexpr uint8_t kStatusC = 0x0c;
constexpr uint8_t kStatusD = 0x0d;
constexpr uint8_t kBaseMemory = 0x15;       // KiB, 2 bytes.
constexpr uint8_t kExtendedMemory = 0x17;   // KiB above 1 MiB, 2 bytes.
constexpr uint8_t kExtendedMemory2 = 0x30;  // The same again.
constexpr uint8_t kCentury = 0x32;
constexpr uint8_t kAbove16Mib = 0x34;  // 64 KiB units, 2 bytes.
constexpr uint8_t kAbove4Gib = 0x5b;   // 64 KiB units, 3 bytes.

constexpr uint8_t kIndexMask = 0x7f;  // Bit 7 masks the NMI.

constexpr uint8_t kDefaultA = 0x26;  // 32.768 kHz time base, 1.024 kHz rate.
constexpr uint8_t kUpdateInProgress = 0x80;
constexpr uint8_t kBit24Hour = 0x02;
constexpr uint8_t kBitBinary = 0x04;
constexpr uint8_t kBitSet = 0x80;
constexpr uint8_t kValidRam = 0x80;
constexpr uint8_t kAfternoon = 0x80;

constexpr uint64_t kKib = 1024;
constexpr uint64_t kMib = 1024 * kKib;

bool IsTimeField(uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours ||
         index == kWeekday || index == kDay || index == kMonth ||
         index == kYear || index == kCentury;
}

int64_t HostUnixTime() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Rtc::Rtc(Options options) : options_(std::move(options)) {
  base::MutexLock lock(&mutex_);
  ram_[kStatusA] = kDefaultA;
  ram_[kStatusB] = kBit24Hour;
  ram_[kStatusD] = kValidRam;
  StoreMemorySizes();
}

void Rtc::StoreMemorySizes() {
  auto store = [this](uint8_t index, uint64_t value, int bytes) {
    mutex_.AssertHeld();
    value = std::min<uint64_t>(value, (uint64_t{1} << (8 * bytes)) - 1);
    for (int i = 0; i < bytes; ++i) {
      ram_[index + i] = static_cast<uint8_t>(value >> (8 * i));
    }
  };
  auto above = [](uint64_t size, uint64_t from) {
    return size > from ? size - from : 0;
  };
  const uint64_t low = options_.ram_below_4gib;
  store(kBaseMemory, std::min(low, 640 * kKib) / kKib, 2);
  store(kExtendedMemory, above(low, kMib) / kKib, 2);
  store(kExtendedMemory2, above(low, kMib) / kKib, 2);
  store(kAbove16Mib, above(low, 16 * kMib) / (64 * kKib), 2);
  store(kAbove4Gib, options_.ram_above_4gib / (64 * kKib), 3);
}

void Rtc::Read(uint64_t offset, absl::Span<uint8_t> data) {
  base::MutexLock lock(&mutex_);
  for (uint8_t& byte : data) {
    byte = (offset++ % kPortCount == 0) ? 0xff : ReadRegister();
  }
}

void Rtc::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  base::MutexLock lock(&mutex_);
  for (uint8_t byte : data) {
    if (offset++ % kPortCount == 0) {
      index_ = byte & kIndexMask;
    } else {
      WriteRegister(byte);
    }
  }
}

uint8_t Rtc::ReadRegister() {
  if (IsTimeField(index_)) return TimeField(GuestTime(), index_);
  return ram_[index_];
}

void Rtc::WriteRegister(uint8_t value) {
  if (IsTimeField(index_)) {
    if (stopped()) {
      SetTimeField(frozen_, index_, value);
    } else {
      std::tm time = GuestTime();
      SetTimeField(time, index_, value);
      SetGuestTime(time);
    }
    return;
  }
  switch (index_) {
    case kStatusA:
      ram_[kStatusA] = value & ~kUpdateInProgress;
      break;
    case kStatusB:
      WriteStatusB(value);
      break;
    case kStatusC:
    case kStatusD:
      break;
    default:
      ram_[index_] = value;
  }
}

// SET stops the clock while the guest writes its fields one by one.
void Rtc::WriteStatusB(uint8_t value) {
  const bool stop = (value & kBitSet) != 0;
  if (stop && !stopped()) frozen_ = GuestTime();
  if (!stop && stopped()) SetGuestTime(frozen_);
  ram_[kStatusB] = value;
}

bool Rtc::stopped() const { return (ram_[kStatusB] & kBitSet) != 0; }

std::tm Rtc::GuestTime() const {
  if (stopped()) return frozen_;
  const int64_t host =
      options_.unix_time ? options_.unix_time() : HostUnixTime();
  const std::time_t now = host + offset_seconds_;
  std::tm time = {};
  ::gmtime_r(&now, &time);
  return time;
}

// The fields are what the guest wrote, each within a byte; timegm normalises.
void Rtc::SetGuestTime(std::tm time) {
  const int64_t host =
      options_.unix_time ? options_.unix_time() : HostUnixTime();
  time.tm_isdst = 0;
  offset_seconds_ = ::timegm(&time) - host;
}

uint8_t Rtc::TimeField(const std::tm& time, uint8_t index) const {
  const int year = std::max(0, time.tm_year + 1900);
  switch (index) {
    case kSeconds:
      return Encode(time.tm_sec);
    case kMinutes:
      return Encode(time.tm_min);
    case kHours: {
      if (ram_[kStatusB] & kBit24Hour) return Encode(time.tm_hour);
      const int hour = time.tm_hour % 12 == 0 ? 12 : time.tm_hour % 12;
      return Encode(hour) | (time.tm_hour % 24 >= 12 ? kAfternoon : 0);
    }
    case kWeekday:
      return Encode(time.tm_wday + 1);
    case kDay:
      return Encode(time.tm_mday);
    case kMonth:
      return Encode(time.tm_mon + 1);
    case kYear:
      return Encode(year % 100);
    default:
      return Encode(year / 100);
  }
}

void Rtc::SetTimeField(std::tm& time, uint8_t index, uint8_t value) const {
  const int year = std::max(0, time.tm_year + 1900);
  switch (index) {
    case kSeconds:
      time.tm_sec = Decode(value);
      break;
    case kMinutes:
      time.tm_min = Decode(value);
      break;
    case kHours:
      if (ram_[kStatusB] & kBit24Hour) {
        time.tm_hour = Decode(value);
      } else {
        time.tm_hour = Decode(value & ~kAfternoon) % 12;
        if (value & kAfternoon) time.tm_hour += 12;
      }
      break;
    case kWeekday:  // Follows from the date.
      break;
    case kDay:
      time.tm_mday = Decode(value);
      break;
    case kMonth:
      time.tm_mon = Decode(value) - 1;
      break;
    case kYear:
      time.tm_year = year / 100 * 100 + Decode(value) - 1900;
      break;
    default:
      time.tm_year = Decode(value) * 100 + year % 100 - 1900;
      break;
  }
}

uint8_t Rtc::Encode(int value) const {
  if (ram_[kStatusB] & kBitBinary) return static_cast<uint8_t>(value);
  return static_cast<uint8_t>((value / 10 % 10) << 4 | value % 10);
}

int Rtc::Decode(uint8_t value) const {
  if (ram_[kStatusB] & kBitBinary) return value;
  return (value >> 4) * 10 + (value & 0x0f);
}

}  // namespace cloister::devices
