// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_SYSCALLS_H_
#define CLOISTER_KVM_SYSCALLS_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace cloister::kvm {

// The seam between this folder and the operating system. Every method has the
// semantics of the system call it is named after: -1 (Mmap: MAP_FAILED) and
// errno on failure, and no retrying of EINTR.
//
// Descriptors are real ones in every implementation, so that UniqueFd can close
// them and fcntl(2) works on them. Implementations are thread-safe.
class Syscalls {
 public:
  virtual ~Syscalls() = default;

  virtual int Open(const char* path, int flags) = 0;
  // `argument` is a pointer or a number, as `request` says.
  virtual int Ioctl(int fd, unsigned long request, uintptr_t argument) = 0;
  virtual void* Mmap(void* address, size_t length, int protection, int flags,
                     int fd, off_t offset) = 0;
  virtual int Munmap(void* address, size_t length) = 0;
  virtual int Fallocate(int fd, int mode, off_t offset, off_t length) = 0;
};

// The operating system itself. Stateless; lives for ever.
Syscalls& RealSyscalls();

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_SYSCALLS_H_
