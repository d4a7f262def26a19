// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_PCI_CONFIG_SPACE_H_
#define CLOISTER_DEVICES_PCI_CONFIG_SPACE_H_

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/devices/pci_function.h"

namespace cloister::devices {

// What a type 0 header starts with (PCI 3.0, section 6.1).
struct PciIdentity {
  uint16_t vendor = 0xffff;
  uint16_t device = 0xffff;
  uint8_t revision = 0;
  uint32_t class_code = 0;  // 24 bits: class, subclass, interface
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem = 0;
};

// The 256 bytes of one function: values, and which bits of them a guest may
// write. Knows the fixed header, BARs and the chain of capabilities; what they
// do is its user's. Not thread-safe.
class PciConfigSpace {
 public:
  static constexpr int kBars = 6;
  // Command register bits.
  static constexpr uint16_t kCommandIo = 1;
  static constexpr uint16_t kCommandMemory = 2;
  static constexpr uint16_t kCommandBusMaster = 4;
  static constexpr uint16_t kCommandIntxDisable = 1 << 10;
  static constexpr uint32_t kCommand = 0x04;
  static constexpr uint32_t kStatus = 0x06;

  enum class BarKind { kIo, kMemory32 };

  explicit PciConfigSpace(const PciIdentity& identity);

  // A BAR of `size` bytes, a power of two (at least 4 ports, or 16 bytes of
  // memory), that decodes `address` until the guest moves it. InvalidArgument
  // otherwise.
  absl::Status AddBar(int index, BarKind kind, uint32_t size, uint32_t address);
  // Interrupt pin A, and the number that a BIOS would have noted.
  void SetInterruptLine(uint8_t line);
  // Appends a capability, `body` without its first two bytes; `writable` are
  // the bits that guests may change, none beyond its end. Returns where it
  // starts. ResourceExhausted if there is no room.
  absl::StatusOr<uint32_t> AddCapability(
      uint8_t id, absl::Span<const uint8_t> body,
      absl::Span<const uint8_t> writable = {});

  // Guest accesses, within the 256 bytes.
  void Read(uint32_t offset, absl::Span<uint8_t> data) const;
  void Write(uint32_t offset, absl::Span<const uint8_t> data);

  // Where a BAR decodes now; nullopt if it does not, or is not there.
  std::optional<uint32_t> BarAddress(int index) const;

  // Values as they stand, whatever guests may write.
  uint16_t command() const { return Get16(kCommand); }
  uint16_t Get16(uint32_t offset) const;
  uint32_t Get32(uint32_t offset) const;
  void Set16(uint32_t offset, uint16_t value);
  void Set32(uint32_t offset, uint32_t value);
  void SetByte(uint32_t offset, uint8_t value) { bytes_[offset] = value; }

 private:
  struct Bar {
    uint32_t size = 0;  // 0: not there
    BarKind kind = BarKind::kIo;
  };
  void AllowWrites32(uint32_t offset, uint32_t mask);

  std::array<uint8_t, PciFunction::kConfigSize> bytes_ = {};
  std::array<uint8_t, PciFunction::kConfigSize> writable_ = {};
  std::array<Bar, kBars> bars_;
  uint32_t last_capability_ = 0x33;  // where the next pointer is to be written
  uint32_t free_ = 0x40;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_PCI_CONFIG_SPACE_H_
