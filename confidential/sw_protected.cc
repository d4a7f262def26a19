// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/sw_protected.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/private_region.h"

namespace cloister::confidential {
namespace {

using memory::GuestMemory;
using memory::GuestRange;
using memory::PageState;

class SwProtectedBackend : public Backend {
 public:
  SwProtectedBackend(int c_bit, const kvm::Vm* vm, GuestMemory* shared,
                     std::vector<std::unique_ptr<PrivateRegion>> regions,
                     std::vector<SlotRange> slots)
      : c_bit_(c_bit),
        vm_(vm),
        shared_(shared),
        private_(std::move(regions)),
        slots_(std::move(slots)) {}

  absl::string_view name() const override { return "sw-protected"; }
  BackendKind kind() const override { return BackendKind::kSwProtected; }
  std::optional<int> c_bit() const override { return c_bit_; }
  memory::ConversionContent content() const override {
    return memory::ConversionContent::kLost;
  }
  // 4096 pages: about 2 ms of attribute changes under emulation.
  uint64_t preferred_chunk() const override { return uint64_t{16} << 20; }

  memory::PageProgress SetAttributes(const GuestRange& range,
                                     PageState to) override {
    // KVM sets all or nothing, but for want of memory, where it says no before
    // it starts (it reserves every entry first).
    absl::Status status =
        vm_->SetMemoryAttributes(range, to == PageState::kPrivate);
    if (!status.ok()) return {std::move(status), 0};
    return {absl::OkStatus(), range.size()};
  }
  // The kernel's shmem mount has no size limit to run into.
  absl::Status ReserveShared(const GuestRange& /*range*/) override {
    return absl::OkStatus();
  }
  absl::Status FreeShared(const GuestRange& range) override {
    return shared_->Discard(range);
  }
  absl::Status FreePrivate(const GuestRange& range) override {
    for (const auto& region : private_) {
      std::optional<GuestRange> part = region->range().Intersect(range);
      if (part.has_value()) RETURN_IF_ERROR(region->Punch(*part));
    }
    return absl::OkStatus();
  }
  absl::Status ForEachBacked(
      memory::BackingSide side, const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&)> visit) override;

  absl::StatusOr<PageFault> TranslateFault(
      const kvm::MemoryFaultExit& fault) const override;
  absl::Status Launch(const LaunchRequest& request) override {
    for (const LaunchPages& pages : request.pages) {
      RETURN_IF_ERROR(shared_->Write(pages.gpa, pages.bytes));
    }
    return absl::OkStatus();
  }

 private:
  const int c_bit_;
  const kvm::Vm* const vm_;
  GuestMemory* const shared_;
  const std::vector<std::unique_ptr<PrivateRegion>> private_;
  const std::vector<SlotRange> slots_;
};

absl::Status SwProtectedBackend::ForEachBacked(
    memory::BackingSide side, const GuestRange& range,
    absl::FunctionRef<void(const GuestRange&)> visit) {
  if (side == memory::BackingSide::kShared) {
    ASSIGN_OR_RETURN(auto backed, shared_->BackedRanges(range));
    for (const GuestRange& part : backed) visit(part);
    return absl::OkStatus();
  }
  for (const auto& region : private_) {
    std::optional<GuestRange> part = region->range().Intersect(range);
    if (part.has_value()) RETURN_IF_ERROR(region->ForEachBacked(*part, visit));
  }
  return absl::OkStatus();
}

absl::StatusOr<PageFault> SwProtectedBackend::TranslateFault(
    const kvm::MemoryFaultExit& fault) const {
  const uint64_t c = uint64_t{1} << c_bit_;
  // View A has no guest_memfd, so KVM reports an access to a page that carries
  // PRIVATE there, with the flag set. View B never faults in this way: a fault
  // there means that its guest_memfd could not give the page.
  if ((fault.address.value() & c) != 0 || !fault.is_private) {
    return absl::FailedPreconditionError(
        absl::StrCat((fault.address.value() & c) != 0 ? "private" : "shared",
                     " access at ", fault.address.ToString(),
                     " failed (flags 0x", absl::Hex(fault.flags), ")"));
  }
  PageFault wanted;
  wanted.page = memory::GuestAddress::FromGfn(fault.address.gfn());
  wanted.wanted = PageState::kShared;
  for (const SlotRange& slot : slots_) {
    if (slot.range.Contains(fault.address)) wanted.slot = slot.slot;
  }
  return wanted;
}

// View B: guest_memfd at x | C. Without mappable files its pages need the
// PRIVATE attribute for ever.
absl::Status AddPrivateSlots(
    const kvm::Vm& vm, SlotAllocator& slots, uint64_t c,
    const std::vector<std::unique_ptr<PrivateRegion>>& regions) {
  for (const auto& region : regions) {
    RETURN_IF_ERROR(slots.AddPrivate(
        region->range(), c, region->reserved_host(),
        kvm::GuestMemfdBinding{.fd = region->fd(), .offset = 0}));
    if (region->mappable()) continue;
    ASSIGN_OR_RETURN(
        GuestRange view_b,
        GuestRange::CreatePageAligned(
            memory::GuestAddress(region->range().start().value() | c),
            region->range().size()));
    RETURN_IF_ERROR(vm.SetMemoryAttributes(view_b, /*is_private=*/true));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BackendVm> CreateSwProtectedVm(const kvm::System& system,
                                              const RamOptions& ram,
                                              int c_bit) {
  BackendVm result;
  ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm(kvm::VmType::kSwProtected));
  result.vm = std::make_unique<kvm::Vm>(std::move(vm));
  ASSIGN_OR_RETURN(std::vector<GuestRange> ranges, CutAtAliasedEnd(ram));
  ASSIGN_OR_RETURN(
      result.memory,
      CreateSharedRam(ranges, {.huge_pages = memory::HugePages::kNone,
                               .dont_dump = ram.dont_dump}));
  const size_t aliased = ram.aliased_end != 0 ? 1 : 0;
  std::vector<std::unique_ptr<PrivateRegion>> regions;
  for (size_t i = aliased; i < ranges.size(); ++i) {
    ASSIGN_OR_RETURN(auto region, PrivateRegion::Create(*result.vm, ranges[i]));
    regions.push_back(std::move(region));
  }
  SlotAllocator slots(*result.vm);
  const uint64_t c = uint64_t{1} << c_bit;
  for (const memory::MemoryRegion& region : result.memory->regions()) {
    RETURN_IF_ERROR(slots.AddRegion(region, 0));
  }
  if (aliased != 0) {
    RETURN_IF_ERROR(slots.AddRegion(result.memory->regions().front(), c));
  }
  RETURN_IF_ERROR(AddPrivateSlots(*result.vm, slots, c, regions));
  result.backend = std::make_unique<SwProtectedBackend>(
      c_bit, result.vm.get(), result.memory.get(), std::move(regions),
      slots.slots());
  return result;
}

}  // namespace cloister::confidential
