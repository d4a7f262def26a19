// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_MICROGUEST_H_
#define CLOISTER_TESTS_MICROGUEST_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/syscalls.h"
#include "cloister/kvm/system.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"
#include "cloister/vcpu/runner.h"
#include "cloister/vmm/exit_router.h"

namespace cloister::tests {

struct MicroguestOptions {
  confidential::BackendKind backend = confidential::BackendKind::kSwProtected;
  uint64_t memory = 16 << 20;  // a multiple of 2 MiB
  uint32_t cpus = 1;
  memory::ConversionPolicy policy = {};
  // RAM is cut into slots of so many bytes, a multiple of 4 KiB and 1 MiB or
  // more, in each view; 0: one slot beside that of the low MiB.
  uint64_t slot_bytes = 0;
  // Whether conversions free the side that a page leaves; without it, the
  // content stays there until Microguest::SetPunching and a reconciliation.
  bool punch = true;
  // What stands between the VM and the kernel; it must outlive the guest.
  kvm::Syscalls* syscalls = &kvm::RealSyscalls();
};

// A guest of a few hundred bytes that does what it is told: code, page tables
// and mailboxes in the aliased low MiB, data in memory that converts. Private
// memory appears at its own address from 2 MiB on, shared memory at SharedVa,
// both 2 MiB further than there is RAM. Runs on kernels that cannot decode
// private code.
//
// The library stack of a VM, joined without devices: backend, broker, shared
// view, exit router, runners.
class Microguest {
 public:
  static constexpr uint64_t kPrivateAttribute = 1 << 4;
  // The guest's own notes lie here, in the aliased MiB.
  static constexpr uint64_t kRecords = 0x80000;
  static constexpr uint64_t kRecordBytes = 0x80000;
  // Where the guest sees address `gpa` through the shared view.
  static constexpr uint64_t SharedVa(uint64_t gpa) {
    return (uint64_t{1} << 40) + gpa;
  }

  enum class Op : uint64_t {
    kHalt = 0,
    kWrite = 1,
    kCheck = 2,
    kConvert = 3,
    kCount = 4,
    kToggle = 5,
    kRandom = 6,
    kWatch = 7,
  };
  // As microguest_code.S explains them.
  struct Command {
    Op op = Op::kHalt;
    uint64_t address = 0;
    uint64_t count = 0;
    uint64_t value = 0;
    uint64_t stride = memory::kPageSize;
    uint64_t delta = 0;
    uint64_t seed = 1;
  };
  struct Result {
    uint64_t result = 0;
    uint64_t seen = 0;
    uint64_t progress = 0;
  };

  // Made, and every vCPU waiting for its first command.
  static absl::StatusOr<std::unique_ptr<Microguest>> Create(
      const MicroguestOptions& options);
  // The same with the vCPUs not yet started, for the host to prepare.
  static absl::StatusOr<std::unique_ptr<Microguest>> CreateStopped(
      const MicroguestOptions& options);
  absl::Status Start();
  ~Microguest();
  Microguest(const Microguest&) = delete;
  Microguest& operator=(const Microguest&) = delete;

  // Gives vCPU `cpu`, which has none, a command.
  void Begin(uint32_t cpu, const Command& command);
  // Ends kCount, kToggle, kRandom and kWatch.
  void Stop(uint32_t cpu);
  // What the command came to; the run's error if the vCPU ended instead,
  // DeadlineExceeded after two minutes.
  absl::StatusOr<Result> Wait(uint32_t cpu);
  absl::StatusOr<Result> Run(uint32_t cpu, const Command& command);
  bool busy(uint32_t cpu);
  // The counter of a command that is running.
  uint64_t Progress(uint32_t cpu);

  // RAX of a MAP_GPA_RANGE hypercall.
  absl::StatusOr<uint64_t> Convert(uint64_t gpa, uint64_t npages,
                                   uint64_t attributes, uint32_t cpu = 0);
  // Writes `value` + i to the start of page i, at a guest-virtual address.
  absl::Status FillPages(uint64_t address, uint64_t pages, uint64_t value,
                         uint32_t cpu = 0);
  // OK if that is what the guest reads there; `delta` 0: `value` everywhere.
  absl::Status CheckPages(uint64_t address, uint64_t pages, uint64_t value,
                          uint64_t delta = 1, uint32_t cpu = 0);

  // Every memory fault so far, in order.
  std::vector<kvm::MemoryFaultExit> Faults();
  // Reads made to addresses without memory.
  std::vector<uint64_t> MmioReads();

  const kvm::Vm& vm() const { return *backend_vm_.vm; }
  memory::GuestMemory& memory() { return *backend_vm_.memory; }
  confidential::Backend& backend() { return *backend_vm_.backend; }
  void SetPunching(bool value);
  // Frees what is backed on the wrong side; no vCPU may have a command.
  // (Between two of them a microguest has told of every conversion.)
  absl::StatusOr<memory::ReconcileReport> Reconcile();
  memory::PageStateMap& states() { return states_; }
  memory::SharedView& view() { return *view_; }
  memory::ConversionBroker& broker() { return *broker_; }
  uint64_t c_bit() const { return uint64_t{1} << c_bit_; }
  vcpu::Runner& runner(uint32_t cpu) { return *cpus_[cpu]->runner; }

 private:
  class Handler;
  class KeepingBackend;
  struct Cpu {
    std::unique_ptr<Handler> handler;
    std::unique_ptr<vcpu::Runner> runner;
    // Guarded by mutex_.
    bool commanded = false;  // the mailbox is full
    bool taken = false;      // the guest works on it
    bool ended = false;
    vcpu::RunEnd end;
  };
  Microguest() = default;
  absl::Status Build(const MicroguestOptions& options);
  absl::Status BuildMemory(const MicroguestOptions& options);
  absl::Status PlaceCode(uint64_t memory);
  absl::Status BuildVcpu(const kvm::System& system, uint32_t index,
                         uint32_t count);
  static uint64_t Mailbox(uint32_t cpu) { return 0x10000 + cpu * 0x80; }
  uint64_t Peek(uint32_t cpu, uint64_t offset);
  void Poke(uint32_t cpu, uint64_t offset, uint64_t value);
  // The guest asks: its last command is done. False when there is none more.
  bool NextCommand(Cpu& cpu);

  memory::PageStateMap states_;
  confidential::BackendVm backend_vm_;
  KeepingBackend* keeping_ = nullptr;  // the backend
  int c_bit_ = 0;
  std::unique_ptr<memory::SharedView> view_;
  std::unique_ptr<memory::ConversionBroker> broker_;
  std::unique_ptr<vmm::ExitRouter> router_;

  base::Mutex mutex_;
  base::CondVar changed_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<kvm::MemoryFaultExit> faults_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> mmio_reads_ ABSL_GUARDED_BY(mutex_);

  std::vector<std::unique_ptr<Cpu>> cpus_;
};

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_MICROGUEST_H_
