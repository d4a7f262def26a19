// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_PCI_ROOT_H_
#define CLOISTER_DEVICES_PCI_ROOT_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/pci_config_space.h"
#include "cloister/devices/pci_function.h"

namespace cloister::devices {

// PCI bus 0 behind configuration mechanism 1: the address port at 0xCF8 and the
// data ports at 0xCFC (PCI 3.0, section 3.2.2.3.2), which need no MMIO. Device
// 0 is the host bridge; each other device has function 0 only.
//
// Add functions before the guest runs; then thread-safe.
class PciRoot : public BusDevice {
 public:
  static constexpr uint16_t kPort = 0xcf8;
  static constexpr uint16_t kPortCount = 8;
  static constexpr int kSlots = 32;

  PciRoot();

  // Puts `function` into slot 1 to 31. OutOfRange or AlreadyExists.
  absl::Status Add(int slot, std::shared_ptr<PciFunction> function);

  absl::string_view name() const override { return "pci"; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  static constexpr uint32_t kEnable = uint32_t{1} << 31;

  void ReadData(uint64_t offset, absl::Span<uint8_t> data);
  // The function that the address port selects; null if there is none.
  PciFunction* Selected(uint32_t address) const;

  // Several vCPUs share the port as on hardware: their drivers have a lock.
  std::atomic<uint32_t> address_{0};
  std::array<std::shared_ptr<PciFunction>, kSlots> slots_;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_PCI_ROOT_H_
