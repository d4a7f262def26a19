// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_GUEST_MEMFD_H_
#define CLOISTER_KVM_GUEST_MEMFD_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/host_mapping.h"
#include "cloister/kvm/syscalls.h"

namespace cloister::kvm {

// What a guest_memfd is created with (Linux 6.18; ask
// Vm::SupportedGuestMemfdFlags).
struct GuestMemfdFlags {
  // The host may mmap(2) it.
  bool mmap = false;
  // Pages start out shared: the host may touch them. Only on VMs without
  // private memory; without it, touching a mapped page is a SIGBUS.
  bool init_shared = false;
  bool operator==(const GuestMemfdFlags&) const = default;
};

// Guest memory that KVM owns (KVM_CREATE_GUEST_MEMFD, Linux 6.8), made by
// Vm::CreateGuestMemfd. Its pages are the guest's alone unless the flags say
// otherwise; the file starts sparse and reads as zeros to the guest.
//
// The file pins its VM, but a memory slot does not pin the file: keep this
// object as long as a slot is bound to it, or the memory is lost. Thread-safe.
class GuestMemfd {
 public:
  // Takes ownership of `fd`, a guest_memfd of `size` bytes.
  GuestMemfd(Syscalls& syscalls, base::UniqueFd fd, uint64_t size,
             GuestMemfdFlags flags)
      : syscalls_(&syscalls), fd_(std::move(fd)), size_(size), flags_(flags) {}

  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }
  GuestMemfdFlags flags() const { return flags_; }

  // Maps all of it, shared, readable and writable. FailedPrecondition without
  // flags().mmap.
  absl::StatusOr<HostMapping> Map() const;

  // Frees the pages of [offset, offset + length); the guest reads zeros there
  // afterwards. InvalidArgument unless both are page-aligned, length is not 0
  // and the range is inside the file. Retries EINTR.
  absl::Status PunchHole(uint64_t offset, uint64_t length) const;

  // Allocates the pages of [offset, offset + length) that the file does not
  // have yet; content is kept. Errors as PunchHole; ResourceExhausted when the
  // host has no memory, with some of the pages allocated.
  absl::Status Allocate(uint64_t offset, uint64_t length) const;

 private:
  absl::Status Fallocate(const char* what, int mode, uint64_t offset,
                         uint64_t length) const;

  Syscalls* syscalls_;
  base::UniqueFd fd_;
  uint64_t size_;
  GuestMemfdFlags flags_;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_GUEST_MEMFD_H_
