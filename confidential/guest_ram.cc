// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/guest_ram.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::confidential {

using memory::GuestAddress;
using memory::GuestMemory;
using memory::GuestRange;
using memory::HostMapping;
using memory::MemoryRegion;

absl::StatusOr<std::vector<GuestRange>> CutAtAliasedEnd(
    const RamOptions& options) {
  std::vector<GuestRange> cut = options.ram;
  const uint64_t end = options.aliased_end;
  if (end == 0) return cut;
  if (!base::IsAligned(end, memory::kPageSize) || cut.empty() ||
      cut.front().start() != GuestAddress(0) || cut.front().size() <= end) {
    return absl::InvalidArgumentError(absl::StrCat(
        "RAM must cover the aliased low ", end, " bytes and more"));
  }
  ASSIGN_OR_RETURN(GuestRange low,
                   GuestRange::CreatePageAligned(GuestAddress(0), end));
  ASSIGN_OR_RETURN(GuestRange rest,
                   GuestRange::CreatePageAligned(GuestAddress(end),
                                                 cut.front().size() - end));
  cut.front() = rest;
  cut.insert(cut.begin(), low);
  return cut;
}

absl::StatusOr<std::unique_ptr<GuestMemory>> CreateSharedRam(
    absl::Span<const GuestRange> ranges, const memory::MappingOptions& options,
    absl::string_view name) {
  std::vector<MemoryRegion> regions;
  for (const GuestRange& range : ranges) {
    ASSIGN_OR_RETURN(HostMapping mapping,
                     HostMapping::CreateMemfd(name, range.size(), options));
    ASSIGN_OR_RETURN(MemoryRegion region,
                     MemoryRegion::Create(range.start(), std::move(mapping)));
    regions.push_back(std::move(region));
  }
  ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(std::move(regions)));
  return std::make_unique<GuestMemory>(std::move(memory));
}

absl::Status SlotAllocator::AddRegion(const MemoryRegion& region,
                                      uint64_t address_bits) {
  kvm::MemoryRegion slot;
  slot.slot = kvm::Slot(next_++);
  slot.gpa = GuestAddress(region.range().start().value() | address_bits);
  slot.size = region.range().size();
  slot.host =
      reinterpret_cast<void*>(region.mapping().host_address().ForKvmSlot());
  return Register(slot);
}

absl::Status SlotAllocator::AddPrivate(const GuestRange& range,
                                       uint64_t address_bits, void* host,
                                       kvm::GuestMemfdBinding binding) {
  kvm::MemoryRegion slot;
  slot.slot = kvm::Slot(next_++);
  slot.gpa = GuestAddress(range.start().value() | address_bits);
  slot.size = range.size();
  slot.host = host;
  slot.guest_memfd = binding;
  return Register(slot);
}

absl::Status SlotAllocator::Register(const kvm::MemoryRegion& slot) {
  RETURN_IF_ERROR(vm_.SetMemoryRegion(slot));
  ASSIGN_OR_RETURN(GuestRange range, GuestRange::Create(slot.gpa, slot.size));
  slots_.push_back({range, slot.slot});
  return absl::OkStatus();
}

}  // namespace cloister::confidential
