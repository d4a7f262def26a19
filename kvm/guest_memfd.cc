// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/guest_memfd.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"
#include "cloister/memory/guest_address.h"

namespace cloister::kvm {

absl::StatusOr<HostMapping> GuestMemfd::Map() const {
  if (!flags_.mmap) {
    return absl::FailedPreconditionError(
        "mmap(guest_memfd): it was created without the mmap flag");
  }
  void* data = syscalls_->Mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                               MAP_SHARED, fd_.get(), 0);
  if (data == MAP_FAILED) {
    return base::ErrnoStatus(
        errno, absl::StrCat("mmap(guest_memfd, ", size_, " bytes)"));
  }
  return HostMapping(*syscalls_, data, size_);
}

absl::Status GuestMemfd::PunchHole(uint64_t offset, uint64_t length) const {
  return Fallocate("PUNCH_HOLE", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   offset, length);
}

absl::Status GuestMemfd::Allocate(uint64_t offset, uint64_t length) const {
  return Fallocate("KEEP_SIZE", FALLOC_FL_KEEP_SIZE, offset, length);
}

absl::Status GuestMemfd::Fallocate(const char* what, int mode, uint64_t offset,
                                   uint64_t length) const {
  std::string call =
      absl::StrCat("fallocate(guest_memfd, ", what, ", 0x", absl::Hex(offset),
                   "+0x", absl::Hex(length), " of 0x", absl::Hex(size_), ")");
  if (offset % memory::kPageSize != 0 || length % memory::kPageSize != 0 ||
      length == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(call, ": not a range of whole pages"));
  }
  if (offset > size_ || length > size_ - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat(call, ": beyond the end of the file"));
  }
  int result = base::RetryOnEintr([&] {
    return syscalls_->Fallocate(fd_.get(), mode, static_cast<off_t>(offset),
                                static_cast<off_t>(length));
  });
  if (result < 0) return base::ErrnoStatus(errno, call);
  return absl::OkStatus();
}

}  // namespace cloister::kvm
