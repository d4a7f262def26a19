// SPDX-License-Identifier: Apache-2.0
//
// Test only.
#ifndef CLOISTER_KVM_FAKE_KVM_H_
#define CLOISTER_KVM_FAKE_KVM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "cloister/base/mutex.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/syscalls.h"

struct kvm_run;

namespace cloister::kvm {

// A KVM without a kernel: a script of results behind the Syscalls interface.
//
// Untouched, it behaves like a recent, quiet KVM: /dev/kvm opens, VMs, vCPUs
// and guest_memfds can be created (their descriptors are real memfds), slots
// and registers are accepted and remembered, KVM_RUN reports HLT. Tests then
// queue results per request: each queued step answers one call, in order, and
// the default answers again once the queue is empty. Requests are KVM's
// numbers, or those of requests.h outside of kvm/. Thread-safe.
class FakeKvm : public Syscalls {
 public:
  // Answers one ioctl: its return value, or -1 with errno set. Runs without the
  // fake's lock.
  using Handler = std::function<int(int fd, uintptr_t argument)>;

  struct Call {
    int fd;
    unsigned long request;
    uintptr_t argument;         // as passed; a pointer may be dead by now
    std::vector<uint8_t> data;  // what the argument pointed to, if it did
  };
  struct MemorySlot {
    uint64_t gpa, size;
    void* host;
    bool readonly, log_dirty;
    int guest_memfd;  // -1: none
    uint64_t guest_memfd_offset;
  };
  struct AttributeCall {
    uint64_t gpa, size;
    bool is_private;
  };

  static constexpr size_t kRunPageSize = 3 * 4096;

  FakeKvm();
  ~FakeKvm() override;

  // --- script: any ioctl ---
  // The next call of `request` returns `result`.
  void QueueResult(unsigned long request, int result);
  // The next call of `request` fails with `error`.
  void QueueErrno(unsigned long request, int error);
  // `handler` answers the next call of `request`.
  void QueueHandler(unsigned long request, Handler handler);
  // `handler` answers every call of `request` that no queued step answers.
  void SetHandler(unsigned long request, Handler handler);
  // What the default would do; for handlers that only look.
  int Default(int fd, unsigned long request, uintptr_t argument);

  // The answer to CHECK_EXTENSION, on the device and on VMs; 0: lacking.
  void SetCapability(Capability capability, int value);
  // The answer on VMs only.
  void SetVmCapability(Capability capability, int value);

  // --- script: KVM_RUN; `vcpu` is an id, without one any vCPU takes the step
  // --- Reports `exit`. Pointers in it are ignored; `data` is what the guest
  // wrote (IoExit out, MmioExit write).
  void QueueExit(const Exit& exit, std::vector<uint8_t> data = {},
                 std::optional<uint32_t> vcpu = {});
  // The same, once `before` returns: a guest that takes its time.
  void QueueSlowExit(std::function<void()> before, const Exit& exit,
                     std::vector<uint8_t> data = {},
                     std::optional<uint32_t> vcpu = {});
  // Fails; with `exit`, leaves that in the run page, as a memory fault does.
  void QueueRunErrno(int error, std::optional<Exit> exit = {},
                     std::optional<uint32_t> vcpu = {});
  // Calls `fill` with the run page, then returns 0.
  void QueueRun(std::function<void(struct kvm_run*)> fill,
                std::optional<uint32_t> vcpu = {});
  // With nothing queued: HLT at once (false, the default), or block until
  // immediate_exit is set or a signal arrives (true), as a busy guest does.
  void SetBlockWhenIdle(bool block);

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
      std::memcpy(&value, all.back().data.data(), sizeof(T));
    }
    return value;
  }
  // What user space had answered to the exits that want an answer (IoExit in,
  // MmioExit read, HypercallExit, MsrExit: error byte first, value in the last
  // 8), as seen by the vCPU's next KVM_RUN.
  std::vector<std::vector<uint8_t>> answers() const;
  // The slots of the VM with descriptor `vm_fd`, by number.
  std::map<uint32_t, MemorySlot> slots(int vm_fd) const;
  std::vector<AttributeCall> attribute_calls() const;
  // The run page of the vCPU with descriptor `fd`; nullptr unless mapped.
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
  int Run(int fd);

  mutable base::Mutex mutex_;
  const std::unique_ptr<State> state_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_FAKE_KVM_H_
