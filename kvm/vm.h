// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_VM_H_
#define CLOISTER_KVM_VM_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/guest_memfd.h"
#include "cloister/kvm/irq.h"
#include "cloister/kvm/memory_region.h"
#include "cloister/kvm/syscalls.h"
#include "cloister/kvm/vcpu_fd.h"
#include "cloister/kvm/vm_type.h"
#include "cloister/memory/guest_address.h"

namespace cloister::kvm {

// The guest's kvmclock (KVM_GET_CLOCK).
struct ClockData {
  uint64_t nanoseconds = 0;
  // The host's CLOCK_REALTIME and TSC at that moment, where KVM knows them.
  std::optional<uint64_t> realtime;
  std::optional<uint64_t> host_tsc;
};

// MSRs [first, first + count) whose accesses exit to user space.
struct MsrRange {
  uint32_t first = 0;
  uint32_t count = 0;
  bool reads = true;
  bool writes = true;
};

// One VM: its memory slots, interrupt controllers and vCPUs. Made by
// System::CreateVm. Holds no state of its own beyond the descriptor, so that
// KVM's locking makes it thread-safe. Must be used from the process that
// created it. Errors name the ioctl and its arguments; all methods retry EINTR.
class Vm {
 public:
  int fd() const { return fd_.get(); }
  VmType type() const { return type_; }

  // The VM's own answer (KVM_CHECK_EXTENSION on the VM); 0 for what this KVM
  // does not know.
  int CheckExtension(Capability capability) const;

  // --- memory ---

  // Creates or changes a slot, with SET_USER_MEMORY_REGION2 where KVM has it
  // (6.8), else with the first version. Unimplemented if a guest_memfd is asked
  // for without version 2; AlreadyExists if the GPA range or the file range is
  // in use; InvalidArgument for what KVM refuses.
  absl::Status SetMemoryRegion(const MemoryRegion& region) const;
  // Deletes a slot; InvalidArgument if there is none. The attributes of its
  // pages stay: clear them first.
  absl::Status DeleteMemoryRegion(Slot slot) const;

  // A guest_memfd of `size` bytes (page-aligned, not 0), close-on-exec.
  // InvalidArgument for flags that SupportedGuestMemfdFlags() lacks.
  absl::StatusOr<GuestMemfd> CreateGuestMemfd(uint64_t size,
                                              GuestMemfdFlags flags) const;
  // The flags this VM accepts (Capability::kGuestMemfdFlags).
  GuestMemfdFlags SupportedGuestMemfdFlags() const;

  // Sets or clears PRIVATE on every page of `range` (page-aligned). Costs time
  // per page even where nothing changes. Unimplemented on a VM without private
  // memory.
  absl::Status SetMemoryAttributes(const memory::GuestRange& range,
                                   bool is_private) const;

  // Three pages below 4 GiB that Intel hosts need for real mode; before vCPUs.
  absl::Status SetTssAddress(memory::GuestAddress address) const;
  // One more such page; before vCPUs.
  absl::Status SetIdentityMapAddress(memory::GuestAddress address) const;

  // --- interrupt controllers; before vCPUs ---

  // PICs, IOAPIC and local APICs in the kernel (full irqchip).
  absl::Status CreateIrqchip() const;
  // The i8254 timer; after CreateIrqchip(). Port 0x61 is answered too.
  absl::Status CreatePit() const;
  // Local APICs in the kernel, IOAPIC in user space; the first `ioapic_pins`
  // GSIs are its routes, whose EOIs exit as ApicEoiExit.
  absl::Status EnableSplitIrqchip(uint32_t ioapic_pins) const;
  // 32-bit APIC ids in MSIs and routes; needed for ids beyond 255.
  absl::Status EnableX2apicApi() const;
  // Which vCPU id starts as the boot processor (default 0).
  absl::Status SetBootCpuId(uint32_t id) const;

  // --- interrupts ---

  // Sets the level of an irqchip input.
  absl::Status SetIrqLine(Gsi gsi, bool level) const;
  // Writes to `event_fd` pulse `gsi`. With `resample_fd` the line stays up
  // until the guest's EOI, which signals `resample_fd`. Both are borrowed for
  // the call only; KVM holds its own references until DetachIrqfd.
  absl::Status AttachIrqfd(int event_fd, Gsi gsi,
                           std::optional<int> resample_fd = {}) const;
  absl::Status DetachIrqfd(int event_fd, Gsi gsi) const;
  // Injects an MSI; OK also when the guest does not take it.
  absl::Status SignalMsi(const Msi& msi) const;
  // Replaces the whole routing table; see DefaultIrqchipRoutes().
  absl::Status SetGsiRouting(absl::Span<const Route> routes) const;

  // The guest's writes that match `event` signal `event_fd`, without an exit.
  absl::Status AttachIoeventfd(const IoEvent& event, int event_fd) const;
  absl::Status DetachIoeventfd(const IoEvent& event, int event_fd) const;

  // --- exits and clock ---

  // KVM_HC_MAP_GPA_RANGE exits as HypercallExit. Unimplemented where KVM cannot
  // (before 5.14).
  absl::Status EnableHypercallExits() const;
  // Accesses to MSRs that KVM does not know or that SetMsrFilter() names exit
  // as MsrExit instead of raising #GP.
  absl::Status EnableUserSpaceMsrExits() const;
  // Accesses to `ranges` (at most 16, of at most 0x3000 MSRs each) are
  // filtered; all others go to KVM. An empty list removes the filter.
  absl::Status SetMsrFilter(absl::Span<const MsrRange> ranges) const;

  absl::StatusOr<ClockData> GetClock() const;
  // Sets kvmclock; with `realtime` KVM adds the time that passed since.
  absl::Status SetClock(const ClockData& clock) const;

  // The TSC frequency that new vCPUs get, in kHz (Capability::kVmTscControl).
  absl::Status SetTscKhz(uint32_t khz) const;

  // A vCPU with local APIC id `id`. InvalidArgument beyond
  // Capability::kMaxVcpus or kMaxVcpuId, AlreadyExists for an id in use.
  absl::StatusOr<VcpuFd> CreateVcpu(uint32_t id) const;

 private:
  friend class System;
  Vm(Syscalls& syscalls, base::UniqueFd fd, VmType type, size_t vcpu_mmap_size,
     bool has_user_memory2)
      : syscalls_(&syscalls),
        fd_(std::move(fd)),
        type_(type),
        vcpu_mmap_size_(vcpu_mmap_size),
        has_user_memory2_(has_user_memory2) {}

  int Ioctl(unsigned long request, const void* argument) const;
  int IoctlNumber(unsigned long request, uintptr_t argument) const;
  absl::Status EnableCapability(Capability capability, uint64_t argument) const;
  absl::Status ChangeRegion(const MemoryRegion& region, uint64_t size) const;
  absl::Status ChangeIoeventfd(const IoEvent& event, int event_fd,
                               uint32_t flags, const char* what) const;

  Syscalls* syscalls_;
  base::UniqueFd fd_;
  VmType type_;
  size_t vcpu_mmap_size_;
  bool has_user_memory2_;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_VM_H_
