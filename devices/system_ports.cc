// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/system_ports.h"

#include <utility>

namespace cloister::devices {
namespace {

constexpr uint8_t kPort61Stored = 0x03;  // Timer 2 gate, speaker.
constexpr uint8_t kPort61Refresh = 0x10;
constexpr uint8_t kPort61Timer2Out = 0x20;

constexpr uint8_t kPort92Reset = 0x01;
constexpr uint8_t kPort92A20 = 0x02;

}  // namespace

void Port61::Read(uint64_t, absl::Span<uint8_t> data) {
  for (uint8_t& byte : data) {
    const bool refresh = (reads_.fetch_add(1, std::memory_order_relaxed) & 1);
    byte = control_.load(std::memory_order_relaxed) | kPort61Timer2Out |
           (refresh ? kPort61Refresh : 0);
  }
}

void Port61::Write(uint64_t, absl::Span<const uint8_t> data) {
  for (uint8_t byte : data) {
    control_.store(byte & kPort61Stored, std::memory_order_relaxed);
  }
}

Port92::Port92(std::function<void()> on_reset)
    : on_reset_(std::move(on_reset)) {}

void Port92::Read(uint64_t, absl::Span<uint8_t> data) {
  for (uint8_t& byte : data) {
    byte = control_.load(std::memory_order_relaxed) | kPort92A20;
  }
}

void Port92::Write(uint64_t, absl::Span<const uint8_t> data) {
  for (uint8_t byte : data) {
    const uint8_t before = control_.exchange(byte, std::memory_order_relaxed);
    if ((byte & ~before) & kPort92Reset) on_reset_();
  }
}

}  // namespace cloister::devices
