// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/fault_kvm.h"

#include <sys/mman.h>

#include <cerrno>

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {

void FaultKvm::FailCall(uint64_t nth, int error) {
  base::MutexLock lock(&mutex_);
  any_ = Plan{nth, error};
}

void FaultKvm::FailRequest(unsigned long request, uint64_t nth, int error) {
  base::MutexLock lock(&mutex_);
  by_request_[request] = Plan{nth, error};
}

void FaultKvm::Reset() {
  base::MutexLock lock(&mutex_);
  any_.reset();
  by_request_.clear();
  fired_ = false;
  calls_ = 0;
}

void FaultKvm::HideCapability(Capability capability) {
  base::MutexLock lock(&mutex_);
  hidden_.insert(CapabilityNumber(capability));
}

bool FaultKvm::Fired() const {
  base::MutexLock lock(&mutex_);
  return fired_;
}

uint64_t FaultKvm::calls() const {
  base::MutexLock lock(&mutex_);
  return calls_;
}

bool FaultKvm::Fails(std::optional<unsigned long> request) {
  base::MutexLock lock(&mutex_);
  ++calls_;
  int error = 0;
  if (any_.has_value() && --any_->remaining == 0) {
    error = any_->error;
    any_.reset();
  }
  if (request.has_value()) {
    auto it = by_request_.find(*request);
    if (it != by_request_.end() && --it->second.remaining == 0) {
      error = it->second.error;
      by_request_.erase(it);
    }
  }
  if (error == 0) return false;
  fired_ = true;
  errno = error;
  return true;
}

int FaultKvm::Open(const char* path, int flags) {
  if (Fails({})) return -1;
  return inner_.Open(path, flags);
}

int FaultKvm::Ioctl(int fd, unsigned long request, uintptr_t argument) {
  if (Fails(request)) return -1;
  if (request == KVM_CHECK_EXTENSION) {
    base::MutexLock lock(&mutex_);
    if (hidden_.count(static_cast<int>(argument)) != 0) return 0;
  }
  return inner_.Ioctl(fd, request, argument);
}

void* FaultKvm::Mmap(void* address, size_t length, int protection, int flags,
                     int fd, off_t offset) {
  if (Fails({})) return MAP_FAILED;
  return inner_.Mmap(address, length, protection, flags, fd, offset);
}

int FaultKvm::Munmap(void* address, size_t length) {
  return inner_.Munmap(address, length);
}

int FaultKvm::Fallocate(int fd, int mode, off_t offset, off_t length) {
  if (Fails({})) return -1;
  return inner_.Fallocate(fd, mode, offset, length);
}

}  // namespace cloister::kvm
