// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_IRQ_H_
#define CLOISTER_KVM_IRQ_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace cloister::kvm {

// A global system interrupt: an index of KVM's routing table.
class Gsi {
 public:
  constexpr Gsi() = default;
  constexpr explicit Gsi(uint32_t value) : value_(value) {}
  constexpr uint32_t value() const { return value_; }
  constexpr auto operator<=>(const Gsi&) const = default;

 private:
  uint32_t value_ = 0;
};

inline constexpr uint32_t kIoapicPins = 24;

// A message-signalled interrupt as a device writes it (SDM vol. 3, 11.11).
// With the x2APIC API enabled, bits 63:40 of `address` hold bits 31:8 of the
// destination's APIC id.
struct Msi {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const Msi&) const = default;

  // Fixed, edge-triggered `vector` to the one processor with `apic_id`.
  static Msi ToProcessor(uint32_t apic_id, uint8_t vector);
};

// A pin of KVM's own interrupt controllers (full irqchip).
struct IrqchipPin {
  enum class Chip : uint32_t { kPicMaster = 0, kPicSlave = 1, kIoapic = 2 };
  Chip chip = Chip::kIoapic;
  uint32_t pin = 0;
  bool operator==(const IrqchipPin&) const = default;
};

// One entry of the routing table: raising `gsi` does `target`. Several entries
// may share a GSI (PIC and IOAPIC pins).
struct Route {
  Gsi gsi;
  std::variant<IrqchipPin, Msi> target;
  bool operator==(const Route&) const = default;
};

// The table that KVM installs with a full irqchip: GSI n to IOAPIC pin n, and
// GSIs 0-15 to the PICs too. SetGsiRouting() replaces the whole table, so a VM
// that adds MSI routes starts from this.
std::vector<Route> DefaultIrqchipRoutes();

// The guest access that an ioeventfd consumes in the kernel.
struct IoEvent {
  enum class Space { kPio, kMmio };
  Space space = Space::kMmio;
  uint64_t address = 0;
  // 1, 2, 4 or 8 bytes; 0: any length (then without `datamatch`).
  uint32_t length = 0;
  // Only writes of this value; others exit as usual.
  std::optional<uint64_t> datamatch;
  bool operator==(const IoEvent&) const = default;

  // "mmio 0xd0000000+4 value 0x1".
  std::string ToString() const;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_IRQ_H_
