// SPDX-License-Identifier: Apache-2.0
//
// Test only.
#ifndef CLOISTER_KVM_FAULT_KVM_H_
#define CLOISTER_KVM_FAULT_KVM_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "absl/base/thread_annotations.h"
#include "cloister/base/mutex.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/syscalls.h"

namespace cloister::kvm {

// Wraps any Syscalls, the fake or the real one, and makes chosen calls fail
// without reaching it. Thread-safe.
class FaultKvm : public Syscalls {
 public:
  // `inner` must outlive this.
  explicit FaultKvm(Syscalls& inner) : inner_(inner) {}

  // The `nth` system call from now on (1: the next) of any kind but Munmap
  // fails with `error`. Loop nth over 1, 2, … until Fired() is false to visit
  // every failure path of some code.
  void FailCall(uint64_t nth, int error);
  // The `nth` ioctl of `request` from now on fails with `error`.
  void FailRequest(unsigned long request, uint64_t nth, int error);
  // Forgets every planned failure and counts from zero.
  void Reset();
  // CHECK_EXTENSION answers 0 for `capability`, as an older KVM would.
  void HideCapability(Capability capability);

  // Whether a planned failure has happened since Reset().
  bool Fired() const;
  // System calls since Reset().
  uint64_t calls() const;

  int Open(const char* path, int flags) override;
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override;
  void* Mmap(void* address, size_t length, int protection, int flags, int fd,
             off_t offset) override;
  int Munmap(void* address, size_t length) override;
  int Fallocate(int fd, int mode, off_t offset, off_t length) override;

 private:
  struct Plan {
    uint64_t remaining;
    int error;
  };
  // Counts one call; true, with errno set, if it must fail.
  bool Fails(std::optional<unsigned long> request);

  Syscalls& inner_;
  mutable base::Mutex mutex_;
  std::optional<Plan> any_ ABSL_GUARDED_BY(mutex_);
  std::map<unsigned long, Plan> by_request_ ABSL_GUARDED_BY(mutex_);
  std::set<int> hidden_ ABSL_GUARDED_BY(mutex_);
  bool fired_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_FAULT_KVM_H_
