// SPDX-License-Identifier: Apache-2.0
//
// Vm's memory, exits, clock and vCPUs; vm_irq.cc has its interrupts.
#include "cloister/kvm/vm.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

uint32_t RegionFlags(const MemoryRegion& region) {
  uint32_t flags = 0;
  if (region.readonly) flags |= KVM_MEM_READONLY;
  if (region.log_dirty) flags |= KVM_MEM_LOG_DIRTY_PAGES;
  if (region.guest_memfd.has_value()) flags |= KVM_MEM_GUEST_MEMFD;
  return flags;
}

// KVM reads this many bytes of bitmap at most per MSR filter range.
constexpr uint32_t kMaxFilteredMsrs = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8;

}  // namespace

int Vm::Ioctl(unsigned long request, const void* argument) const {
  return IoctlNumber(request, reinterpret_cast<uintptr_t>(argument));
}

int Vm::IoctlNumber(unsigned long request, uintptr_t argument) const {
  return base::RetryOnEintr(
      [&] { return syscalls_->Ioctl(fd_.get(), request, argument); });
}

int Vm::CheckExtension(Capability capability) const {
  int number = CapabilityNumber(capability);
  return std::max(0, IoctlNumber(KVM_CHECK_EXTENSION, number));
}

absl::Status Vm::EnableCapability(Capability capability,
                                  uint64_t argument) const {
  struct kvm_enable_cap enable = {};
  enable.cap = CapabilityNumber(capability);
  enable.args[0] = argument;
  if (Ioctl(KVM_ENABLE_CAP, &enable) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_ENABLE_CAP(", CapabilityName(capability),
                            ", 0x", absl::Hex(argument), ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::SetMemoryRegion(const MemoryRegion& region) const {
  // A size of 0 would delete the slot.
  absl::StatusOr<memory::GuestRange> range =
      memory::GuestRange::CreatePageAligned(region.gpa, region.size);
  if (!range.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory ", region.ToString(), ": ", range.status().message()));
  }
  if (region.guest_memfd.has_value() && !has_user_memory2_) {
    return absl::UnimplementedError(
        absl::StrCat("memory ", region.ToString(),
                     ": this KVM has no KVM_CAP_USER_MEMORY2 (Linux 6.8)"));
  }
  return ChangeRegion(region, region.size);
}

absl::Status Vm::DeleteMemoryRegion(Slot slot) const {
  MemoryRegion region;
  region.slot = slot;
  return ChangeRegion(region, 0);
}

absl::Status Vm::ChangeRegion(const MemoryRegion& region, uint64_t size) const {
  struct kvm_userspace_memory_region2 argument = {};
  argument.slot = region.slot.value();
  argument.flags = RegionFlags(region);
  argument.guest_phys_addr = region.gpa.value();
  argument.memory_size = size;
  argument.userspace_addr = reinterpret_cast<uintptr_t>(region.host);
  if (region.guest_memfd.has_value()) {
    argument.guest_memfd = static_cast<uint32_t>(region.guest_memfd->fd);
    argument.guest_memfd_offset = region.guest_memfd->offset;
  }
  // The second version starts like the first.
  const char* name = has_user_memory2_ ? "KVM_SET_USER_MEMORY_REGION2("
                                       : "KVM_SET_USER_MEMORY_REGION(";
  int result = Ioctl(has_user_memory2_ ? KVM_SET_USER_MEMORY_REGION2
                                       : KVM_SET_USER_MEMORY_REGION,
                     &argument);
  if (result < 0) {
    return base::ErrnoStatus(
        errno,
        absl::StrCat(name, size == 0 ? "delete " : "", region.ToString(), ")"));
  }
  return absl::OkStatus();
}

GuestMemfdFlags Vm::SupportedGuestMemfdFlags() const {
  int mask = CheckExtension(Capability::kGuestMemfdFlags);
  GuestMemfdFlags flags;
  flags.mmap = (mask & GUEST_MEMFD_FLAG_MMAP) != 0;
  flags.init_shared = (mask & GUEST_MEMFD_FLAG_INIT_SHARED) != 0;
  return flags;
}

absl::StatusOr<GuestMemfd> Vm::CreateGuestMemfd(uint64_t size,
                                                GuestMemfdFlags flags) const {
  struct kvm_create_guest_memfd argument = {};
  argument.size = size;
  if (flags.mmap) argument.flags |= GUEST_MEMFD_FLAG_MMAP;
  if (flags.init_shared) argument.flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
  std::string what = absl::StrCat("KVM_CREATE_GUEST_MEMFD(size 0x",
                                  absl::Hex(size), flags.mmap ? " mmap" : "",
                                  flags.init_shared ? " init-shared" : "", ")");
  if (size == 0 || size % memory::kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": the size is not whole pages"));
  }
  base::UniqueFd fd(Ioctl(KVM_CREATE_GUEST_MEMFD, &argument));
  if (!fd.valid()) return base::ErrnoStatus(errno, what);
  RETURN_IF_ERROR(base::SetCloseOnExec(fd.get()));
  return GuestMemfd(*syscalls_, std::move(fd), size, flags);
}

absl::Status Vm::SetMemoryAttributes(const memory::GuestRange& range,
                                     bool is_private) const {
  struct kvm_memory_attributes argument = {};
  argument.address = range.start().value();
  argument.size = range.size();
  argument.attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
  std::string what =
      absl::StrCat("KVM_SET_MEMORY_ATTRIBUTES(", range.ToString(), " to ",
                   is_private ? "private)" : "shared)");
  if (!range.IsPageAligned()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": not a range of whole pages"));
  }
  if (Ioctl(KVM_SET_MEMORY_ATTRIBUTES, &argument) < 0) {
    return base::ErrnoStatus(errno, what);
  }
  return absl::OkStatus();
}

absl::Status Vm::SetTssAddress(memory::GuestAddress address) const {
  if (IoctlNumber(KVM_SET_TSS_ADDR, address.value()) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_SET_TSS_ADDR(", address.ToString(), ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::SetIdentityMapAddress(memory::GuestAddress address) const {
  uint64_t value = address.value();
  if (Ioctl(KVM_SET_IDENTITY_MAP_ADDR, &value) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("KVM_SET_IDENTITY_MAP_ADDR(",
                                                 address.ToString(), ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::EnableHypercallExits() const {
  constexpr uint64_t kMask = uint64_t{1} << KVM_HC_MAP_GPA_RANGE;
  int offered = CheckExtension(Capability::kExitHypercall);
  if ((static_cast<uint32_t>(offered) & kMask) == 0) {
    return absl::UnimplementedError(
        absl::StrCat("KVM_CAP_EXIT_HYPERCALL offers 0x", absl::Hex(offered),
                     ", without KVM_HC_MAP_GPA_RANGE (0x1000, Linux 5.14)"));
  }
  return EnableCapability(Capability::kExitHypercall, kMask);
}

absl::Status Vm::EnableUserSpaceMsrExits() const {
  return EnableCapability(
      Capability::kUserSpaceMsr,
      KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER);
}

absl::Status Vm::SetMsrFilter(absl::Span<const MsrRange> ranges) const {
  if (ranges.size() > KVM_MSR_FILTER_MAX_RANGES) {
    return absl::InvalidArgumentError(
        absl::StrCat("KVM_X86_SET_MSR_FILTER: ", ranges.size(),
                     " ranges, at most ", KVM_MSR_FILTER_MAX_RANGES));
  }
  // A clear bit denies; KVM copies the bitmap, so all ranges share one.
  std::vector<uint8_t> denied(KVM_MSR_FILTER_MAX_BITMAP_SIZE, 0);
  struct kvm_msr_filter filter = {};
  filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const MsrRange& range = ranges[i];
    if (range.count == 0 || range.count > kMaxFilteredMsrs) {
      return absl::InvalidArgumentError(absl::StrCat(
          "KVM_X86_SET_MSR_FILTER: a range of ", range.count, " MSRs at 0x",
          absl::Hex(range.first), ", 1 to ", kMaxFilteredMsrs, " allowed"));
    }
    filter.ranges[i].flags = (range.reads ? KVM_MSR_FILTER_READ : 0) |
                             (range.writes ? KVM_MSR_FILTER_WRITE : 0);
    filter.ranges[i].base = range.first;
    filter.ranges[i].nmsrs = range.count;
    filter.ranges[i].bitmap = denied.data();
  }
  if (Ioctl(KVM_X86_SET_MSR_FILTER, &filter) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("KVM_X86_SET_MSR_FILTER(",
                                                 ranges.size(), " ranges)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ClockData> Vm::GetClock() const {
  struct kvm_clock_data data = {};
  if (Ioctl(KVM_GET_CLOCK, &data) < 0) {
    return base::ErrnoStatus(errno, "KVM_GET_CLOCK");
  }
  ClockData clock;
  clock.nanoseconds = data.clock;
  if (data.flags & KVM_CLOCK_REALTIME) clock.realtime = data.realtime;
  if (data.flags & KVM_CLOCK_HOST_TSC) clock.host_tsc = data.host_tsc;
  return clock;
}

absl::Status Vm::SetClock(const ClockData& clock) const {
  struct kvm_clock_data data = {};
  data.clock = clock.nanoseconds;
  if (clock.realtime.has_value()) {
    data.flags = KVM_CLOCK_REALTIME;
    data.realtime = *clock.realtime;
  }
  if (Ioctl(KVM_SET_CLOCK, &data) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_SET_CLOCK(", clock.nanoseconds, " ns)"));
  }
  return absl::OkStatus();
}

absl::Status Vm::SetTscKhz(uint32_t khz) const {
  if (IoctlNumber(KVM_SET_TSC_KHZ, khz) < 0) {
    return base::ErrnoStatus(errno,
                             absl::StrCat("KVM_SET_TSC_KHZ(VM, ", khz, ")"));
  }
  return absl::OkStatus();
}

absl::StatusOr<VcpuFd> Vm::CreateVcpu(uint32_t id) const {
  base::UniqueFd fd(IoctlNumber(KVM_CREATE_VCPU, id));
  if (!fd.valid()) {
    return base::ErrnoStatus(errno, absl::StrCat("KVM_CREATE_VCPU(", id, ")"));
  }
  return VcpuFd::Create(*syscalls_, std::move(fd), id, vcpu_mmap_size_);
}

}  // namespace cloister::kvm
