// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/vcpu_fd.h"

#include <cerrno>
#include <optional>
#include <thread>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using memory::GuestAddress;
using memory::GuestRange;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class VcpuFdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<System> system = System::Open(fake_);
    ASSERT_TRUE(system.ok()) << system.status();
    absl::StatusOr<Vm> vm = system->CreateVm(VmType::kDefault);
    ASSERT_TRUE(vm.ok()) << vm.status();
    absl::StatusOr<VcpuFd> vcpu = vm->CreateVcpu(3);
    ASSERT_TRUE(vcpu.ok()) << vcpu.status();
    vm_.emplace(std::move(*vm));
    vcpu_.emplace(std::move(*vcpu));
  }
  GuestRange Range(uint64_t start, uint64_t size) {
    return *GuestRange::Create(GuestAddress(start), size);
  }

  FakeKvm fake_;
  std::optional<Vm> vm_;
  std::optional<VcpuFd> vcpu_;
};

MemoryFaultExit Fault(uint64_t gpa) {
  return MemoryFaultExit{GuestAddress(gpa), 0x1000, 8, true};
}

TEST_F(VcpuFdTest, ZeroMeansAnExit) {
  fake_.QueueExit(IoExit{IoExit::Direction::kOut, 0x3f8, 1, 3, nullptr},
                  {'a', 'b', 'c'});
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  ASSERT_EQ(outcome.kind, RunOutcome::Kind::kExit);
  const auto& io = std::get<IoExit>(outcome.exit);
  EXPECT_EQ(io.port, 0x3f8);
  EXPECT_EQ(std::string(io.data, io.data + io.size()), "abc");
  ASSERT_OK_AND_ASSIGN(outcome, vcpu_->Run());
  EXPECT_TRUE(std::holds_alternative<HaltExit>(outcome.exit));
}

TEST_F(VcpuFdTest, AnswersReachTheNextRun) {
  fake_.QueueExit(IoExit{IoExit::Direction::kIn, 0x60, 2, 1, nullptr});
  fake_.QueueExit(MmioExit{GuestAddress(0xd0000000), 4, false, nullptr});
  fake_.QueueExit(HypercallExit{12, {}, true, nullptr});
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  std::get<IoExit>(outcome.exit).data[0] = 0x12;
  std::get<IoExit>(outcome.exit).data[1] = 0x34;
  ASSERT_OK_AND_ASSIGN(outcome, vcpu_->Run());
  std::get<MmioExit>(outcome.exit).data[3] = 0x99;
  ASSERT_OK_AND_ASSIGN(outcome, vcpu_->Run());
  *std::get<HypercallExit>(outcome.exit).result = 0x22;
  ASSERT_OK(vcpu_->Run());
  EXPECT_THAT(fake_.answers(),
              ElementsAre(ElementsAre(0x12, 0x34), ElementsAre(0, 0, 0, 0x99),
                          ElementsAre(0x22, 0, 0, 0, 0, 0, 0, 0)));
}

TEST_F(VcpuFdTest, EfaultWithReason39IsAMemoryFault) {
  for (int error : {EFAULT, EHWPOISON}) {
    fake_.QueueRunErrno(error, Fault(0x7000));
    ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
    ASSERT_EQ(outcome.kind, RunOutcome::Kind::kExit);
    const auto& fault = std::get<MemoryFaultExit>(outcome.exit);
    EXPECT_EQ(fault.address.value(), 0x7000u);
    EXPECT_EQ(fault.size, 0x1000u);
    EXPECT_TRUE(fault.is_private);
  }
}

// Some KVMs report the fault and return 0.
TEST_F(VcpuFdTest, ZeroWithReason39IsAMemoryFaultToo) {
  fake_.QueueExit(Fault(0x9000));
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  EXPECT_TRUE(std::holds_alternative<MemoryFaultExit>(outcome.exit));
}

// The page still holds the last fault: a bare EFAULT must not be taken for it.
TEST_F(VcpuFdTest, StaleReason39IsNotAMemoryFault) {
  fake_.QueueRunErrno(EFAULT, Fault(0x7000));
  ASSERT_OK(vcpu_->Run());
  fake_.QueueRunErrno(EFAULT);
  EXPECT_THAT(vcpu_->Run(),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("EFAULT")));
}

TEST_F(VcpuFdTest, EfaultWithAnotherReasonIsAnError) {
  fake_.QueueRunErrno(EFAULT, MmioExit{GuestAddress(0x1000), 4, true, nullptr});
  EXPECT_THAT(vcpu_->Run(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(VcpuFdTest, OtherErrnosIgnoreTheReason) {
  fake_.QueueRunErrno(ENOMEM, Fault(0x7000));
  EXPECT_THAT(vcpu_->Run(), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(VcpuFdTest, EintrAndEagainAreOutcomes) {
  fake_.QueueRunErrno(EINTR, Fault(0x7000));
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kInterrupted);
  fake_.QueueRunErrno(EAGAIN, Fault(0x7000));
  ASSERT_OK_AND_ASSIGN(outcome, vcpu_->Run());
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kRetry);
  EXPECT_EQ(fake_.CountOf(KVM_RUN), 2u);  // the caller decides about retries
}

TEST_F(VcpuFdTest, ErrorsNameVcpuAndRip) {
  Registers registers;
  registers.rip = 0xfff0;
  ASSERT_OK(vcpu_->SetRegisters(registers));
  fake_.QueueRunErrno(EINVAL);
  EXPECT_THAT(vcpu_->Run(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("KVM_RUN(vCPU 3) at RIP 0xfff0")));
  fake_.QueueRunErrno(EIO);
  fake_.QueueErrno(KVM_GET_REGS, EINVAL);
  EXPECT_THAT(vcpu_->Run(), StatusIs(absl::StatusCode::kInternal,
                                     HasSubstr("KVM_RUN(vCPU 3): ")));
}

TEST_F(VcpuFdTest, MalformedExitsAreErrors) {
  fake_.QueueRun([](struct kvm_run* run) {
    run->exit_reason = KVM_EXIT_IO;
    run->io.size = 1;
    run->io.count = 1;
    run->io.data_offset = FakeKvm::kRunPageSize;
  });
  EXPECT_THAT(vcpu_->Run(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(VcpuFdTest, ImmediateExit) {
  vcpu_->SetImmediateExit(true);
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kInterrupted);
  vcpu_->SetImmediateExit(false);
  ASSERT_OK_AND_ASSIGN(outcome, vcpu_->Run());
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kExit);
}

TEST_F(VcpuFdTest, ImmediateExitFromAnotherThread) {
  fake_.SetBlockWhenIdle(true);
  std::thread kicker([&] { vcpu_->SetImmediateExit(true); });
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, vcpu_->Run());
  kicker.join();
  EXPECT_EQ(outcome.kind, RunOutcome::Kind::kInterrupted);
}

TEST_F(VcpuFdTest, InterruptWindow) {
  struct kvm_run* run = fake_.RunPage(vcpu_->fd());
  EXPECT_FALSE(vcpu_->ReadyForInterrupt());
  run->ready_for_interrupt_injection = 1;
  EXPECT_TRUE(vcpu_->ReadyForInterrupt());
  vcpu_->RequestInterruptWindow(true);
  EXPECT_EQ(run->request_interrupt_window, 1);
  vcpu_->RequestInterruptWindow(false);
  EXPECT_EQ(run->request_interrupt_window, 0);
}

TEST_F(VcpuFdTest, Injection) {
  ASSERT_OK(vcpu_->InjectNmi());
  ASSERT_OK(vcpu_->InjectInterrupt(0x31));
  EXPECT_EQ(fake_.LastArgument<struct kvm_interrupt>(KVM_INTERRUPT).irq, 0x31u);
  fake_.QueueErrno(KVM_INTERRUPT, EEXIST);
  EXPECT_THAT(vcpu_->InjectInterrupt(0x31),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr("KVM_INTERRUPT(vCPU 3)")));
}

TEST_F(VcpuFdTest, NotifyPaused) {
  ASSERT_OK(vcpu_->NotifyPaused());
  fake_.QueueErrno(KVM_KVMCLOCK_CTRL, EINVAL);  // no kvmclock in use
  ASSERT_OK(vcpu_->NotifyPaused());
  fake_.QueueErrno(KVM_KVMCLOCK_CTRL, EIO);
  EXPECT_THAT(vcpu_->NotifyPaused(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(VcpuFdTest, UnmapsItsRunPage) {
  EXPECT_EQ(fake_.mapped_run_pages(), 1u);
  VcpuFd moved = std::move(*vcpu_);
  vcpu_.reset();
  EXPECT_EQ(fake_.mapped_run_pages(), 1u);
  { VcpuFd last = std::move(moved); }
  EXPECT_EQ(fake_.mapped_run_pages(), 0u);
}

TEST_F(VcpuFdTest, RefusesASmallRunPage) {
  EXPECT_THAT(VcpuFd::Create(fake_, base::UniqueFd(), 0, 16),
              StatusIs(absl::StatusCode::kInternal));
}

// --- pre-faulting ---

// Does `bytes` of what is asked, as KVM reports progress.
FakeKvm::Handler Progress(uint64_t bytes) {
  return [bytes](int, uintptr_t argument) {
    auto* range = reinterpret_cast<struct kvm_pre_fault_memory*>(argument);
    range->gpa += bytes;
    range->size -= bytes;
    return 0;
  };
}

TEST_F(VcpuFdTest, PreFaultGoesOnWhereKvmStopped) {
  fake_.QueueHandler(KVM_PRE_FAULT_MEMORY, Progress(0x1000));
  fake_.QueueErrno(KVM_PRE_FAULT_MEMORY, EINTR);
  fake_.QueueErrno(KVM_PRE_FAULT_MEMORY, EAGAIN);
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(0x10000, 0x3000)),
              IsOkAndHolds(0x3000u));
  auto sent =
      fake_.LastArgument<struct kvm_pre_fault_memory>(KVM_PRE_FAULT_MEMORY);
  EXPECT_EQ(sent.gpa, 0x11000u);
  EXPECT_EQ(sent.size, 0x2000u);
}

TEST_F(VcpuFdTest, PreFaultReportsPartialProgress) {
  fake_.QueueHandler(KVM_PRE_FAULT_MEMORY, Progress(0x2000));
  fake_.QueueErrno(KVM_PRE_FAULT_MEMORY, ENOENT);
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(0x10000, 0x3000)),
              IsOkAndHolds(0x2000u));
}

TEST_F(VcpuFdTest, PreFaultErrors) {
  fake_.QueueErrno(KVM_PRE_FAULT_MEMORY, ENOENT);
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(0x10000, 0x1000)),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("KVM_PRE_FAULT_MEMORY(vCPU 3)"),
                             HasSubstr("[0x10000, 0x10fff]"))));
  fake_.QueueErrno(KVM_PRE_FAULT_MEMORY, EOPNOTSUPP);
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(0x10000, 0x1000)),
              StatusIs(absl::StatusCode::kUnimplemented));
  // "Success" without progress would loop for ever.
  fake_.QueueResult(KVM_PRE_FAULT_MEMORY, 0);
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(0x10000, 0x1000)),
              StatusIs(absl::StatusCode::kInternal));
}

TEST_F(VcpuFdTest, PreFaultDoesNotRetryForEver) {
  fake_.SetHandler(KVM_PRE_FAULT_MEMORY, [](int, uintptr_t) {
    errno = EAGAIN;
    return -1;
  });
  EXPECT_THAT(vcpu_->PreFaultMemory(Range(0x10000, 0x1000)),
              StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace cloister::kvm
