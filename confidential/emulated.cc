// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/emulated.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::confidential {
namespace {

using memory::GuestMemory;
using memory::GuestRange;

class EmulatedBackend : public Backend {
 public:
  EmulatedBackend(int c_bit, GuestMemory* shared,
                  std::unique_ptr<GuestMemory> hidden)
      : c_bit_(c_bit), shared_(shared), private_(std::move(hidden)) {}

  absl::string_view name() const override { return "emulated"; }
  BackendKind kind() const override { return BackendKind::kEmulated; }
  std::optional<int> c_bit() const override { return c_bit_; }
  memory::ConversionContent content() const override {
    return memory::ConversionContent::kLost;
  }
  uint64_t preferred_chunk() const override { return uint64_t{16} << 20; }

  // The guest picks the view by the C-bit alone; nothing traps.
  memory::PageProgress SetAttributes(const GuestRange& range,
                                     memory::PageState /*to*/) override {
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
    return private_->Discard(range);
  }
  absl::Status ForEachBacked(
      memory::BackingSide side, const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&)> visit) override {
    const GuestMemory& memory =
        side == memory::BackingSide::kShared ? *shared_ : *private_;
    ASSIGN_OR_RETURN(auto backed, memory.BackedRanges(range));
    for (const GuestRange& part : backed) visit(part);
    return absl::OkStatus();
  }

  absl::StatusOr<PageFault> TranslateFault(
      const kvm::MemoryFaultExit& fault) const override {
    return absl::FailedPreconditionError(absl::StrCat(
        "memory fault at ", fault.address.ToString(), " (flags 0x",
        absl::Hex(fault.flags), ") in a VM whose accesses are not trapped"));
  }
  absl::Status Launch(const LaunchRequest& request) override {
    for (const LaunchPages& pages : request.pages) {
      RETURN_IF_ERROR(shared_->Write(pages.gpa, pages.bytes));
    }
    return absl::OkStatus();
  }

 private:
  const int c_bit_;
  GuestMemory* const shared_;
  // Never handed out: only KVM's slots in view B use it.
  const std::unique_ptr<GuestMemory> private_;
};

}  // namespace

absl::StatusOr<BackendVm> CreateEmulatedVm(const kvm::System& system,
                                           const RamOptions& ram, int c_bit) {
  BackendVm result;
  ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
  result.vm = std::make_unique<kvm::Vm>(std::move(vm));
  ASSIGN_OR_RETURN(std::vector<GuestRange> ranges, CutAtAliasedEnd(ram));
  ASSIGN_OR_RETURN(
      result.memory,
      CreateSharedRam(ranges, {.huge_pages = memory::HugePages::kNone,
                               .dont_dump = ram.dont_dump}));
  std::vector<GuestRange> private_ranges(
      ranges.begin() + (ram.aliased_end != 0 ? 1 : 0), ranges.end());
  ASSIGN_OR_RETURN(std::unique_ptr<GuestMemory> hidden,
                   CreateSharedRam(private_ranges,
                                   {.huge_pages = memory::HugePages::kNone,
                                    .dont_dump = true},
                                   "cloister-guest-private"));
  SlotAllocator slots(*result.vm);
  const uint64_t c = uint64_t{1} << c_bit;
  for (const memory::MemoryRegion& region : result.memory->regions()) {
    RETURN_IF_ERROR(slots.AddRegion(region, 0));
  }
  if (ram.aliased_end != 0) {
    RETURN_IF_ERROR(slots.AddRegion(result.memory->regions().front(), c));
  }
  for (const memory::MemoryRegion& region : hidden->regions()) {
    RETURN_IF_ERROR(slots.AddRegion(region, c));
  }
  result.backend = std::make_unique<EmulatedBackend>(c_bit, result.memory.get(),
                                                     std::move(hidden));
  return result;
}

}  // namespace cloister::confidential
