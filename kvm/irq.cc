// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/irq.h"

#include "absl/strings/str_cat.h"

namespace cloister::kvm {
namespace {

// The fixed part of an MSI's address (SDM vol. 3, 11.11.1).
constexpr uint64_t kMsiBase = 0xfee00000;

constexpr uint32_t kPicPins = 8;

}  // namespace

Msi Msi::ToProcessor(uint32_t apic_id, uint8_t vector) {
  Msi msi;
  msi.address = kMsiBase | (uint64_t{apic_id & 0xff} << 12) |
                (uint64_t{apic_id & ~0xffu} << 32);
  msi.data = vector;
  return msi;
}

std::vector<Route> DefaultIrqchipRoutes() {
  using Chip = IrqchipPin::Chip;
  std::vector<Route> routes;
  for (uint32_t pin = 0; pin < kIoapicPins; ++pin) {
    routes.push_back({Gsi(pin), IrqchipPin{Chip::kIoapic, pin}});
    if (pin < kPicPins) {
      routes.push_back({Gsi(pin), IrqchipPin{Chip::kPicMaster, pin}});
    } else if (pin < 2 * kPicPins) {
      routes.push_back({Gsi(pin), IrqchipPin{Chip::kPicSlave, pin - kPicPins}});
    }
  }
  return routes;
}

std::string IoEvent::ToString() const {
  std::string text = absl::StrCat(space == Space::kPio ? "pio 0x" : "mmio 0x",
                                  absl::Hex(address), "+", length);
  if (datamatch.has_value()) {
    absl::StrAppend(&text, " value 0x", absl::Hex(*datamatch));
  }
  return text;
}

}  // namespace cloister::kvm
