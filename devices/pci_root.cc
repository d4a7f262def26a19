// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/pci_root.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"

namespace cloister::devices {
namespace {

constexpr uint64_t kDataPort = 4;

// What a guest finds at 00:00.0, so that it knows mechanism 1 works: a host
// bridge without registers. The id is one that drivers know nothing about.
class HostBridge : public PciFunction {
 public:
  HostBridge()
      : config_({.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000}) {}

  void ReadPciConfig(uint32_t offset, absl::Span<uint8_t> data) override {
    config_.Read(offset, data);
  }
  void WritePciConfig(uint32_t, absl::Span<const uint8_t>) override {}

 private:
  const PciConfigSpace config_;
};

}  // namespace

PciRoot::PciRoot() { slots_[0] = std::make_shared<HostBridge>(); }

absl::Status PciRoot::Add(int slot, std::shared_ptr<PciFunction> function) {
  if (slot < 1 || slot >= kSlots) {
    return absl::OutOfRangeError(absl::StrCat("PCI slot ", slot));
  }
  if (slots_[slot] != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("PCI slot ", slot));
  }
  slots_[slot] = std::move(function);
  return absl::OkStatus();
}

PciFunction* PciRoot::Selected(uint32_t address) const {
  const uint32_t bus = address >> 16 & 0xff;
  const uint32_t slot = address >> 11 & 0x1f;
  const uint32_t function = address >> 8 & 7;
  if ((address & kEnable) == 0 || bus != 0 || function != 0) return nullptr;
  return slots_[slot].get();
}

// Accesses that run over the end of the address port, or of a dword of the data
// ports, are no configuration accesses: they read ones and write nothing.
void PciRoot::Read(uint64_t offset, absl::Span<uint8_t> data) {
  std::fill(data.begin(), data.end(), 0xff);
  if (data.size() > 4) return;
  if (offset >= kDataPort) return ReadData(offset - kDataPort, data);
  if (data.size() > kDataPort - offset) return;
  uint8_t bytes[4];
  base::StoreLe<uint32_t>(bytes, address_.load());
  std::copy_n(bytes + offset, data.size(), data.begin());
}

void PciRoot::ReadData(uint64_t offset, absl::Span<uint8_t> data) {
  if (data.size() == 3 || data.size() > 4 - offset) return;
  const uint32_t address = address_.load();
  PciFunction* function = Selected(address);
  if (function == nullptr) return;
  function->ReadPciConfig(static_cast<uint32_t>((address & 0xfc) + offset),
                          data);
}

void PciRoot::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  if (offset < kDataPort) {
    // Only the whole register: Linux writes bytes at 0xCFB to probe for it.
    if (offset == 0 && data.size() == 4) {
      address_.store(base::LoadLe<uint32_t>(data.data()) & ~uint32_t{3});
    }
    return;
  }
  offset -= kDataPort;
  if (data.empty() || data.size() == 3 || data.size() > 4 - offset) return;
  const uint32_t address = address_.load();
  PciFunction* function = Selected(address);
  if (function == nullptr) return;
  function->WritePciConfig(static_cast<uint32_t>((address & 0xfc) + offset),
                           data);
}

}  // namespace cloister::devices
