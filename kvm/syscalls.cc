// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/syscalls.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace cloister::kvm {
namespace {

class Real : public Syscalls {
 public:
  int Open(const char* path, int flags) override { return open(path, flags); }
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override {
    return ioctl(fd, request, argument);
  }
  void* Mmap(void* address, size_t length, int protection, int flags, int fd,
             off_t offset) override {
    return mmap(address, length, protection, flags, fd, offset);
  }
  int Munmap(void* address, size_t length) override {
    return munmap(address, length);
  }
  int Fallocate(int fd, int mode, off_t offset, off_t length) override {
    return fallocate(fd, mode, offset, length);
  }
};

}  // namespace

Syscalls& RealSyscalls() {
  static Real real;
  return real;
}

}  // namespace cloister::kvm
