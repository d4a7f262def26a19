// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_VCPU_FD_H_
#define CLOISTER_KVM_VCPU_FD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/host_mapping.h"
#include "cloister/kvm/registers.h"
#include "cloister/kvm/syscalls.h"
#include "cloister/memory/guest_address.h"

namespace cloister::kvm {

// What one KVM_RUN came to.
struct RunOutcome {
  enum class Kind {
    kExit,         // see `exit`
    kInterrupted,  // EINTR: a signal, or immediate_exit
    kRetry,        // EAGAIN: not runnable yet (waits for SIPI, say)
  };
  Kind kind = Kind::kInterrupted;
  Exit exit;  // only with kExit
};

// One vCPU's descriptor and run page. Made by Vm::CreateVcpu; the VM may be
// destroyed before it.
//
// One thread at a time, the vCPU's own, except for SetImmediateExit(). Errors
// name the ioctl and the vCPU's id; everything but Run() retries EINTR.
class VcpuFd {
 public:
  // Maps the run page of `fd`, which it takes over; `mmap_size` is
  // System::VcpuMmapSize()'s answer.
  static absl::StatusOr<VcpuFd> Create(Syscalls& syscalls, base::UniqueFd fd,
                                       uint32_t id, size_t mmap_size);

  int fd() const { return fd_.get(); }
  uint32_t id() const { return id_; }

  // Runs guest code until something needs user space (KVM_RUN). rc 0: the run
  // page's exit. EFAULT or EHWPOISON with exit reason 39: a MemoryFaultExit.
  // EINTR and EAGAIN: an outcome without an exit, the caller decides. Any other
  // errno: an error with the guest's RIP where readable.
  // What an exit's pointers receive is consumed by the next Run().
  absl::StatusOr<RunOutcome> Run();

  // While set, Run() returns kInterrupted at once, after completing the pending
  // exit (KVM_CAP_IMMEDIATE_EXIT, Linux 4.13). Async-signal-safe and for any
  // thread, while this object is neither moved nor destroyed.
  void SetImmediateExit(bool value);

  absl::StatusOr<Registers> GetRegisters() const;
  absl::Status SetRegisters(const Registers& registers) const;
  absl::StatusOr<SpecialRegisters> GetSpecialRegisters() const;
  absl::Status SetSpecialRegisters(const SpecialRegisters& registers) const;

  // Before the first Run().
  absl::Status SetCpuid(absl::Span<const CpuidEntry> entries) const;
  absl::StatusOr<std::vector<CpuidEntry>> GetCpuid() const;

  // All or an error that names the first MSR that KVM refused (InvalidArgument;
  // those before it are set).
  absl::Status SetMsrs(absl::Span<const MsrEntry> entries) const;
  absl::StatusOr<std::vector<MsrEntry>> GetMsrs(
      absl::Span<const uint32_t> indices) const;

  absl::StatusOr<MpState> GetMpState() const;
  absl::Status SetMpState(MpState state) const;
  absl::StatusOr<LapicState> GetLapic() const;
  absl::Status SetLapic(const LapicState& state) const;
  absl::StatusOr<FpuState> GetFpu() const;
  absl::Status SetFpu(const FpuState& state) const;
  absl::StatusOr<std::vector<Xcr>> GetXcrs() const;
  absl::Status SetXcrs(absl::Span<const Xcr> xcrs) const;
  absl::StatusOr<VcpuEvents> GetVcpuEvents() const;
  absl::Status SetVcpuEvents(const VcpuEvents& events) const;

  // Frequency of the guest's TSC, in kHz.
  absl::StatusOr<uint32_t> GetTscKhz() const;
  absl::Status SetTscKhz(uint32_t khz) const;

  // Queues an NMI (KVM_NMI).
  absl::Status InjectNmi() const;
  // Queues external interrupt `vector`; without a full irqchip, and only when
  // ReadyForInterrupt() (KVM_INTERRUPT).
  absl::Status InjectInterrupt(uint8_t vector) const;
  // As of the last Run(): whether InjectInterrupt() is allowed.
  bool ReadyForInterrupt() const;
  // Asks for an InterruptWindowExit as soon as it is.
  void RequestInterruptWindow(bool value);
  // Tells the guest that it was stopped, so that its watchdogs do not bark
  // (KVM_KVMCLOCK_CTRL). OK also when it uses no kvmclock.
  absl::Status NotifyPaused() const;

  // Populates the guest's page tables and guest_memfd for `range`, page-aligned
  // (KVM_PRE_FAULT_MEMORY, Linux 6.11). Retries EINTR and EAGAIN, the latter a
  // bounded number of times. Returns the bytes done, less than asked only when
  // KVM failed after some progress; an error when it failed before any:
  // Unimplemented; NotFound (a shared page without a slot); Internal with
  // EFAULT (a private page without memory behind it); Unavailable (EAGAIN:
  // slots keep changing).
  absl::StatusOr<uint64_t> PreFaultMemory(
      const memory::GuestRange& range) const;

 private:
  VcpuFd(Syscalls& syscalls, base::UniqueFd fd, uint32_t id, HostMapping run)
      : syscalls_(&syscalls),
        fd_(std::move(fd)),
        id_(id),
        run_(std::move(run)) {}

  // "KVM_X(vCPU <id>)".
  std::string What(const char* ioctl) const;
  int RawIoctl(unsigned long request, const void* argument) const;
  absl::Status Ioctl(unsigned long request, const char* name,
                     const void* argument) const;
  absl::Status RunError(int error) const;

  Syscalls* syscalls_;
  base::UniqueFd fd_;
  uint32_t id_;
  HostMapping run_;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_VCPU_FD_H_
