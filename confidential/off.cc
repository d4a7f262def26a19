// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/off.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/unique_fd.h"

namespace cloister::confidential {
namespace {

using memory::GuestMemory;
using memory::GuestRange;
using memory::HostMapping;
using memory::MemoryRegion;

class OffBackend : public Backend {
 public:
  explicit OffBackend(GuestMemory* memory) : memory_(memory) {}

  absl::string_view name() const override { return "off"; }
  BackendKind kind() const override { return BackendKind::kOff; }
  std::optional<int> c_bit() const override { return std::nullopt; }
  memory::ConversionContent content() const override {
    return memory::ConversionContent::kPreserved;
  }
  uint64_t preferred_chunk() const override { return uint64_t{2} << 20; }

  memory::PageProgress SetAttributes(const GuestRange& range,
                                     memory::PageState to) override {
    if (to == memory::PageState::kShared) {
      return {absl::OkStatus(), range.size()};
    }
    return {absl::FailedPreconditionError("this VM has no private memory"), 0};
  }
  absl::Status ReserveShared(const GuestRange& /*range*/) override {
    return absl::OkStatus();
  }
  absl::Status FreeShared(const GuestRange& range) override {
    return memory_->Discard(range);
  }
  absl::Status FreePrivate(const GuestRange& /*range*/) override {
    return absl::OkStatus();
  }
  absl::Status ForEachBacked(
      memory::BackingSide side, const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&)> visit) override {
    if (side == memory::BackingSide::kPrivate) return absl::OkStatus();
    ASSIGN_OR_RETURN(auto backed, memory_->BackedRanges(range));
    for (const GuestRange& part : backed) visit(part);
    return absl::OkStatus();
  }

  absl::StatusOr<PageFault> TranslateFault(
      const kvm::MemoryFaultExit& fault) const override {
    return absl::FailedPreconditionError(absl::StrCat(
        "memory fault at ", fault.address.ToString(), " (flags 0x",
        absl::Hex(fault.flags), ") in a VM without private memory"));
  }
  absl::Status Launch(const LaunchRequest& request) override {
    for (const LaunchPages& pages : request.pages) {
      RETURN_IF_ERROR(memory_->Write(pages.gpa, pages.bytes));
    }
    return absl::OkStatus();
  }

 private:
  GuestMemory* const memory_;
};

// RAM over guest_memfd, which the host maps; nullptr where the VM lacks it.
absl::StatusOr<std::unique_ptr<GuestMemory>> CreateGuestMemfdRam(
    const kvm::Vm& vm, const RamOptions& ram) {
  kvm::GuestMemfdFlags flags = vm.SupportedGuestMemfdFlags();
  if (!flags.mmap || !flags.init_shared ||
      ram.huge_pages != memory::HugePages::kNone) {
    return nullptr;
  }
  std::vector<MemoryRegion> regions;
  for (const GuestRange& range : ram.ram) {
    ASSIGN_OR_RETURN(kvm::GuestMemfd file,
                     vm.CreateGuestMemfd(range.size(), flags));
    ASSIGN_OR_RETURN(base::UniqueFd fd, base::DuplicateFd(file.fd()));
    memory::MappingOptions options;
    options.dont_dump = ram.dont_dump;
    ASSIGN_OR_RETURN(
        HostMapping mapping,
        HostMapping::MapFile(std::move(fd), 0, range.size(), options));
    ASSIGN_OR_RETURN(MemoryRegion region,
                     MemoryRegion::Create(range.start(), std::move(mapping)));
    regions.push_back(std::move(region));
  }
  ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(std::move(regions)));
  return std::make_unique<GuestMemory>(std::move(memory));
}

absl::Status AddSlots(const kvm::Vm& vm, const GuestMemory& memory,
                      bool guest_memfd) {
  SlotAllocator slots(vm);
  for (const MemoryRegion& region : memory.regions()) {
    if (!guest_memfd) {
      RETURN_IF_ERROR(slots.AddRegion(region, 0));
      continue;
    }
    RETURN_IF_ERROR(slots.AddPrivate(
        region.range(), 0,
        reinterpret_cast<void*>(region.mapping().host_address().ForKvmSlot()),
        kvm::GuestMemfdBinding{.fd = region.mapping().fd(), .offset = 0}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BackendVm> CreateOffVm(const kvm::System& system,
                                      const RamOptions& ram) {
  BackendVm result;
  ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm(kvm::VmType::kDefault));
  result.vm = std::make_unique<kvm::Vm>(std::move(vm));
  ASSIGN_OR_RETURN(result.memory, CreateGuestMemfdRam(*result.vm, ram));
  const bool guest_memfd = result.memory != nullptr;
  if (!guest_memfd) {
    memory::MappingOptions options;
    options.huge_pages = ram.huge_pages;
    options.dont_dump = ram.dont_dump;
    ASSIGN_OR_RETURN(result.memory, CreateSharedRam(ram.ram, options));
  }
  RETURN_IF_ERROR(AddSlots(*result.vm, *result.memory, guest_memfd));
  result.backend = std::make_unique<OffBackend>(result.memory.get());
  return result;
}

}  // namespace cloister::confidential
