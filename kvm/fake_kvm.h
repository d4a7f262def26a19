// SPDX-License-Identifier: Apache-2.0
//
// Test only.
#ifndef CLOISTER_KVM_FAKE_KVM_H_
#define CLOISTER_KVM_FAKE_KVM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "cloister/base/mutex.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/syscalls.h"

struct kvm_run;

namespace cloister::kvm {

// A KVM without a kernel: a script of results behind the Syscalls interface.
//
// Untouched, it behaves like a recent, quiet KVM: /dev/kvm opens, VMs, vCPUs
// and guest_memfds can be created (their descriptors are real memfds), slots
// and registers are accepted and remembered, KVM_RUN reports HLT. Tests then
// queue results per request: each queued step answers one call, in order, and
// the default answers again once the queue is empty. Thread-safe.
class FakeKvm : public Syscalls {
 public:
  // Answers one ioctl: its return value, or -1 with errno set.
  using Handler = std::function<int(int fd, uintptr_t argument)>;

  struct Call {
    int fd;
    unsigned long request;
    uintptr_t argument;         // as passed; a pointer may be dead by now
    std::vector<uint8_t> data;  // what the argument pointed to, if it did
  };

  static constexpr size_t kRunPageSize = 3 * 4096;

  FakeKvm();
  ~FakeKvm() override;

  // --- script ---
  // The next call of `request` returns `result`.
  void QueueResult(unsigned long request, int result);
  // The next call of `request` fails with `error`.
  void QueueErrno(unsigned long request, int error);
  // `handler` answers the next call of `request`.
  void QueueHandler(unsigned long request, Handler handler);
  // `handler` answers every call of `request` that no queued step answers.
  void SetHandler(unsigned long request, Handler handler);

  // The answer to CHECK_EXTENSION, on the device and on VMs; 0: lacking.
  void SetCapability(Capability capability, int value);
  // The answer on VMs only.
  void SetVmCapability(Capability capability, int value);

  // The next KVM_RUN of any vCPU calls `fill` with its run page, then returns
  // 0, or -1 with `error` if that is not 0.
  void QueueRun(std::function<void(struct kvm_run*)> fill, int error = 0);

  // The next Open / Mmap / Fallocate fails with `error`.
  void FailNextOpen(int error);
  void FailNextMmap(int error);
  void FailNextFallocate(int error);

  // --- what happened ---
  std::vector<Call> calls() const;
  std::vector<Call> CallsOf(unsigned long request) const;
  size_t CountOf(unsigned long request) const;
  // The argument struct of the last call of `request`; T{} if there was none.
  template <typename T>
  T LastArgument(unsigned long request) const {
    std::vector<Call> all = CallsOf(request);
    T value{};
    if (!all.empty() && all.back().data.size() >= sizeof(T)) {
      __builtin_memcpy(&value, all.back().data.data(), sizeof(T));
    }
    return value;
  }
  // The run page of the vCPU with descriptor `fd`; nullptr before its mmap.
  struct kvm_run* RunPage(int fd) const;
  size_t mapped_run_pages() const;

  // --- Syscalls ---
  int Open(const char* path, int flags) override;
  int Ioctl(int fd, unsigned long request, uintptr_t argument) override;
  void* Mmap(void* address, size_t length, int protection, int flags, int fd,
             off_t offset) override;
  int Munmap(void* address, size_t length) override;
  int Fallocate(int fd, int mode, off_t offset, off_t length) override;

 private:
  struct State;
  int Default(int fd, unsigned long request, uintptr_t argument);

  mutable base::Mutex mutex_;
  std::unique_ptr<State> state_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_FAKE_KVM_H_
