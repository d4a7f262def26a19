// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_GUEST_RAM_H_
#define CLOISTER_CONFIDENTIAL_GUEST_RAM_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/kvm/memory_region.h"
#include "cloister/kvm/vm.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"

namespace cloister::confidential {

// How a guest's RAM is laid out; common to all backends.
struct RamOptions {
  // Page-aligned, ascending, disjoint; the first range starts at 0.
  std::vector<memory::GuestRange> ram;
  // RAM below is one memory in both views (0: none). With it, `ram` is cut
  // there.
  uint64_t aliased_end = 0;
  memory::HugePages huge_pages = memory::HugePages::kNone;
  // Keep the shared side out of core files as well.
  bool dont_dump = true;
};

// `options.ram`, cut at `aliased_end` so that no range straddles it.
// InvalidArgument if the low end is not RAM or not page-aligned.
absl::StatusOr<std::vector<memory::GuestRange>> CutAtAliasedEnd(
    const RamOptions& options);

// One memfd for each range, at those addresses; `name` shows in /proc/PID/maps.
absl::StatusOr<std::unique_ptr<memory::GuestMemory>> CreateSharedRam(
    absl::Span<const memory::GuestRange> ranges,
    const memory::MappingOptions& options,
    absl::string_view name = "cloister-guest-shared");

// One memory slot: its addresses, C-bit included, and its number.
struct SlotRange {
  memory::GuestRange range;
  kvm::Slot slot;
};

// Hands out slot numbers and registers memory with KVM.
class SlotAllocator {
 public:
  explicit SlotAllocator(const kvm::Vm& vm) : vm_(vm) {}

  // Registers the whole of `region` at its address with `address_bits` set.
  absl::Status AddRegion(const memory::MemoryRegion& region,
                         uint64_t address_bits);
  // A slot whose private accesses go to `binding`.
  absl::Status AddPrivate(const memory::GuestRange& range,
                          uint64_t address_bits, void* host,
                          kvm::GuestMemfdBinding binding);

  // Every slot so far.
  const std::vector<SlotRange>& slots() const { return slots_; }

 private:
  absl::Status Register(const kvm::MemoryRegion& slot);

  const kvm::Vm& vm_;
  uint16_t next_ = 0;
  std::vector<SlotRange> slots_;
};

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_GUEST_RAM_H_
