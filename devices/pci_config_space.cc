// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/pci_config_space.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"

namespace cloister::devices {
namespace {

constexpr uint32_t kBar0 = 0x10;
constexpr uint32_t kInterruptLine = 0x3c;
constexpr uint32_t kInterruptPin = 0x3d;
constexpr uint32_t kCapabilityPointer = 0x34;
constexpr uint16_t kStatusCapabilities = 1 << 4;

}  // namespace

PciConfigSpace::PciConfigSpace(const PciIdentity& identity) {
  base::StoreLe<uint16_t>(&bytes_[0x00], identity.vendor);
  base::StoreLe<uint16_t>(&bytes_[0x02], identity.device);
  base::StoreLe<uint32_t>(&bytes_[0x08],
                          identity.class_code << 8 | identity.revision);
  base::StoreLe<uint16_t>(&bytes_[0x2c], identity.subsystem_vendor);
  base::StoreLe<uint16_t>(&bytes_[0x2e], identity.subsystem);
  last_capability_ = kCapabilityPointer;
  // No more than the bits that do something: DMA is never disabled by others.
  AllowWrites32(kCommand, kCommandIo | kCommandMemory | kCommandBusMaster |
                              kCommandIntxDisable);
  writable_[0x0c] = 0xff;  // cache line size, latency timer: plain storage
  writable_[0x0d] = 0xff;
  writable_[kInterruptLine] = 0xff;
}

absl::Status PciConfigSpace::AddBar(int index, BarKind kind, uint32_t size,
                                    uint32_t address) {
  const bool io = kind == BarKind::kIo;
  if (index < 0 || index >= kBars || !base::IsPowerOfTwo(size) ||
      size < (io ? 4u : 16u) || !base::IsAligned(address, size) ||
      (io && address > 0x10000 - size)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "PCI BAR ", index, " of ", size, " bytes at ", absl::Hex(address)));
  }
  bars_[index] = {size, kind};
  Set32(kBar0 + 4 * index, address | (io ? 1 : 0));
  AllowWrites32(kBar0 + 4 * index, ~(size - 1));
  Set16(kCommand, command() | (io ? kCommandIo : kCommandMemory));
  return absl::OkStatus();
}

void PciConfigSpace::SetInterruptLine(uint8_t line) {
  bytes_[kInterruptLine] = line;
  bytes_[kInterruptPin] = 1;
}

absl::StatusOr<uint32_t> PciConfigSpace::AddCapability(
    uint8_t id, absl::Span<const uint8_t> body,
    absl::Span<const uint8_t> writable) {
  const uint32_t size = static_cast<uint32_t>(body.size()) + 2;
  if (size > PciFunction::kConfigSize - free_ ||
      writable.size() > body.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("PCI capability ", id, ": no room for ", size, " bytes"));
  }
  const uint32_t start = free_;
  bytes_[start] = id;
  std::copy(body.begin(), body.end(), &bytes_[start + 2]);
  std::copy(writable.begin(), writable.end(), &writable_[start + 2]);
  bytes_[last_capability_] = static_cast<uint8_t>(start);
  last_capability_ = start + 1;
  free_ = static_cast<uint32_t>(base::AlignUp(start + size, 4));
  Set16(kStatus, Get16(kStatus) | kStatusCapabilities);
  return start;
}

void PciConfigSpace::Read(uint32_t offset, absl::Span<uint8_t> data) const {
  std::copy_n(&bytes_[offset], data.size(), data.begin());
}

void PciConfigSpace::Write(uint32_t offset, absl::Span<const uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    const uint8_t mask = writable_[offset + i];
    uint8_t& byte = bytes_[offset + i];
    byte = static_cast<uint8_t>((byte & ~mask) | (data[i] & mask));
  }
}

std::optional<uint32_t> PciConfigSpace::BarAddress(int index) const {
  const Bar& bar = bars_[index];
  const bool io = bar.kind == BarKind::kIo;
  if (bar.size == 0 || (command() & (io ? kCommandIo : kCommandMemory)) == 0) {
    return std::nullopt;
  }
  const uint32_t address = Get32(kBar0 + 4 * index) & ~(bar.size - 1);
  // A BAR that is being sized, or was never set.
  if (address == 0 || address == (0u - bar.size)) return std::nullopt;
  if (io && address > 0x10000 - bar.size) return std::nullopt;
  return address;
}

uint16_t PciConfigSpace::Get16(uint32_t offset) const {
  return base::LoadLe<uint16_t>(&bytes_[offset]);
}
uint32_t PciConfigSpace::Get32(uint32_t offset) const {
  return base::LoadLe<uint32_t>(&bytes_[offset]);
}
void PciConfigSpace::Set16(uint32_t offset, uint16_t value) {
  base::StoreLe<uint16_t>(&bytes_[offset], value);
}
void PciConfigSpace::Set32(uint32_t offset, uint32_t value) {
  base::StoreLe<uint32_t>(&bytes_[offset], value);
}
void PciConfigSpace::AllowWrites32(uint32_t offset, uint32_t mask) {
  base::StoreLe<uint32_t>(&writable_[offset], mask);
}

}  // namespace cloister::devices
