// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/vcpu_fd.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/exit_decoder.h"
#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

// How often KVM_PRE_FAULT_MEMORY may answer EAGAIN in a row before it counts as
// a failure.
constexpr int kMaxPreFaultRetries = 1000;

struct kvm_run* RunPage(const HostMapping& mapping) {
  return reinterpret_cast<struct kvm_run*>(mapping.data());
}

}  // namespace

absl::StatusOr<VcpuFd> VcpuFd::Create(Syscalls& syscalls, base::UniqueFd fd,
                                      uint32_t id, size_t mmap_size) {
  if (mmap_size < sizeof(struct kvm_run)) {
    return absl::InternalError(absl::StrCat("vCPU ", id, ": a run page of ",
                                            mmap_size, " bytes is too small"));
  }
  void* data = syscalls.Mmap(nullptr, mmap_size, PROT_READ | PROT_WRITE,
                             MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) {
    return base::ErrnoStatus(errno, absl::StrCat("mmap(run page of vCPU ", id,
                                                 ", ", mmap_size, " bytes)"));
  }
  return VcpuFd(syscalls, std::move(fd), id,
                HostMapping(syscalls, data, mmap_size));
}

std::string VcpuFd::What(const char* ioctl) const {
  return absl::StrCat(ioctl, "(vCPU ", id_, ")");
}

int VcpuFd::RawIoctl(unsigned long request, const void* argument) const {
  return base::RetryOnEintr([&] {
    return syscalls_->Ioctl(fd_.get(), request,
                            reinterpret_cast<uintptr_t>(argument));
  });
}

absl::Status VcpuFd::Ioctl(unsigned long request, const char* name,
                           const void* argument) const {
  if (RawIoctl(request, argument) < 0) {
    return base::ErrnoStatus(errno, What(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<RunOutcome> VcpuFd::Run() {
  // KVM leaves exit_reason alone when it fails early. Without this, an EFAULT
  // that is no memory fault would be read as the last one that was.
  RunPage(run_)->exit_reason = KVM_EXIT_UNKNOWN;
  int result = syscalls_->Ioctl(fd_.get(), KVM_RUN, 0);
  int error = errno;
  if (result < 0) {
    if (error == EINTR) return RunOutcome{RunOutcome::Kind::kInterrupted, {}};
    if (error == EAGAIN) return RunOutcome{RunOutcome::Kind::kRetry, {}};
    bool may_be_fault = error == EFAULT || error == EHWPOISON;
    if (!may_be_fault || RunPage(run_)->exit_reason != KVM_EXIT_MEMORY_FAULT) {
      return RunError(error);
    }
  }
  ASSIGN_OR_RETURN(Exit exit, DecodeExit(run_.data(), run_.size()));
  return RunOutcome{RunOutcome::Kind::kExit, std::move(exit)};
}

absl::Status VcpuFd::RunError(int error) const {
  std::string what = What("KVM_RUN");
  if (absl::StatusOr<Registers> registers = GetRegisters(); registers.ok()) {
    absl::StrAppend(&what, " at RIP 0x", absl::Hex(registers->rip));
  }
  return base::ErrnoStatus(error, what);
}

void VcpuFd::SetImmediateExit(bool value) {
  __atomic_store_n(&RunPage(run_)->immediate_exit, value ? 1 : 0,
                   __ATOMIC_SEQ_CST);
}

bool VcpuFd::ReadyForInterrupt() const {
  return RunPage(run_)->ready_for_interrupt_injection != 0;
}

void VcpuFd::RequestInterruptWindow(bool value) {
  RunPage(run_)->request_interrupt_window = value ? 1 : 0;
}

absl::Status VcpuFd::InjectNmi() const {
  return Ioctl(KVM_NMI, "KVM_NMI", nullptr);
}

absl::Status VcpuFd::InjectInterrupt(uint8_t vector) const {
  struct kvm_interrupt interrupt = {};
  interrupt.irq = vector;
  return Ioctl(KVM_INTERRUPT, "KVM_INTERRUPT", &interrupt);
}

absl::Status VcpuFd::NotifyPaused() const {
  // EINVAL: the guest has no kvmclock to tell.
  if (RawIoctl(KVM_KVMCLOCK_CTRL, nullptr) < 0 && errno != EINVAL) {
    return base::ErrnoStatus(errno, What("KVM_KVMCLOCK_CTRL"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> VcpuFd::PreFaultMemory(
    const memory::GuestRange& range) const {
  struct kvm_pre_fault_memory request = {};
  request.gpa = range.start().value();
  request.size = range.size();
  int error = 0;
  for (int retries = 0; request.size != 0 && error == 0;) {
    uint64_t before = request.size;
    int result = RawIoctl(KVM_PRE_FAULT_MEMORY, &request);
    if (result >= 0) {
      retries = 0;
      // KVM says success only after progress, and never passes the end.
      if (request.size >= before) error = EIO;
    } else if (errno != EAGAIN || ++retries > kMaxPreFaultRetries) {
      error = errno;
    } else {
      sched_yield();  // whoever changes the slot goes first
    }
  }
  uint64_t done = range.size() - std::min(request.size, range.size());
  if (error != 0 && done == 0) {
    return base::ErrnoStatus(error, absl::StrCat(What("KVM_PRE_FAULT_MEMORY"),
                                                 " of ", range.ToString()));
  }
  return done;
}

}  // namespace cloister::kvm
