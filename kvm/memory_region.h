// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_MEMORY_REGION_H_
#define CLOISTER_KVM_MEMORY_REGION_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "cloister/memory/guest_address.h"

namespace cloister::kvm {

// The number of a memory slot, below Capability::kMemorySlots' answer.
class Slot {
 public:
  constexpr Slot() = default;
  constexpr explicit Slot(uint16_t value) : value_(value) {}
  constexpr uint16_t value() const { return value_; }
  constexpr auto operator<=>(const Slot&) const = default;

 private:
  uint16_t value_ = 0;
};

// Where in a guest_memfd a slot's private pages live.
struct GuestMemfdBinding {
  int fd = -1;          // borrowed; the GuestMemfd must outlive the slot
  uint64_t offset = 0;  // page-aligned
};

// One range of guest-physical addresses backed by this process's memory.
struct MemoryRegion {
  Slot slot;
  memory::GuestAddress gpa;  // page-aligned
  uint64_t size = 0;         // page-aligned, not 0
  // Page-aligned host memory that serves the guest's shared accesses and all of
  // KVM's own. Borrowed: must stay mapped until the slot is deleted.
  void* host = nullptr;
  // Guest writes become MMIO exits. Not with `guest_memfd`.
  bool readonly = false;
  // Not with `guest_memfd`.
  bool log_dirty = false;
  // Where private accesses go. Such a slot is immutable: delete it only.
  std::optional<GuestMemfdBinding> guest_memfd;

  // "slot 1 at 0x100000 size 0x10000".
  std::string ToString() const;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_MEMORY_REGION_H_
