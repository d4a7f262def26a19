// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/fake_kvm.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

using base::StatusIs;
using memory::GuestAddress;

class FakeKvmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<System> system = System::Open(fake_);
    ASSERT_TRUE(system.ok());
    absl::StatusOr<Vm> vm = system->CreateVm(VmType::kDefault);
    ASSERT_TRUE(vm.ok());
    system_ = std::make_unique<System>(std::move(*system));
    vm_ = std::make_unique<Vm>(std::move(*vm));
  }
  FakeKvm fake_;
  std::unique_ptr<System> system_;
  std::unique_ptr<Vm> vm_;
};

TEST_F(FakeKvmTest, QueuedStepsComeInOrderThenTheDefault) {
  int fd = system_->fd();
  fake_.QueueResult(KVM_GET_API_VERSION, 7);
  fake_.QueueErrno(KVM_GET_API_VERSION, EINTR);
  fake_.QueueHandler(KVM_GET_API_VERSION, [&](int got, uintptr_t) {
    EXPECT_EQ(got, fd);
    return 9;
  });
  EXPECT_EQ(fake_.Ioctl(fd, KVM_GET_API_VERSION, 0), 7);
  EXPECT_EQ(fake_.Ioctl(fd, KVM_GET_API_VERSION, 0), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(fake_.Ioctl(fd, KVM_GET_API_VERSION, 0), 9);
  EXPECT_EQ(fake_.Ioctl(fd, KVM_GET_API_VERSION, 0), 12);
  fake_.SetHandler(KVM_GET_API_VERSION, [&](int got, uintptr_t argument) {
    return 1 + fake_.Default(got, KVM_GET_API_VERSION, argument);
  });
  EXPECT_EQ(fake_.Ioctl(fd, KVM_GET_API_VERSION, 0), 13);
}

TEST_F(FakeKvmTest, AnswersOnlyWhatTheDescriptorIs) {
  EXPECT_EQ(fake_.Ioctl(987654, KVM_GET_API_VERSION, 0), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(fake_.Ioctl(vm_->fd(), KVM_GET_API_VERSION, 0), -1);
  EXPECT_EQ(errno, ENOTTY);
  EXPECT_EQ(fake_.Ioctl(system_->fd(), KVM_CREATE_VCPU, 0), -1);
  EXPECT_EQ(errno, ENOTTY);
}

TEST_F(FakeKvmTest, RecordsArguments) {
  ASSERT_OK(vm_->SetIrqLine(Gsi(9), true));
  std::vector<FakeKvm::Call> calls = fake_.CallsOf(Requests::kIrqLine);
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].fd, vm_->fd());
  EXPECT_EQ(calls[0].data.size(), sizeof(struct kvm_irq_level));
  EXPECT_GT(fake_.calls().size(), 3u);
  // A missing call gives an empty argument, not a crash.
  EXPECT_EQ(fake_.LastArgument<struct kvm_irqfd>(KVM_IRQFD).fd, 0u);
}

TEST_F(FakeKvmTest, SlotsFollowKvmsRules) {
  MemoryRegion region;
  region.size = 0x2000;
  region.host = reinterpret_cast<void*>(uintptr_t{0x10000});
  ASSERT_OK(vm_->SetMemoryRegion(region));
  region.slot = Slot(1);
  region.gpa = GuestAddress(0x1000);
  EXPECT_THAT(vm_->SetMemoryRegion(region),
              StatusIs(absl::StatusCode::kAlreadyExists));
  region.gpa = GuestAddress(0x2000);
  region.host = reinterpret_cast<void*>(uintptr_t{0x10001});
  EXPECT_THAT(vm_->SetMemoryRegion(region),
              StatusIs(absl::StatusCode::kInvalidArgument));
  region.host = nullptr;
  region.guest_memfd = GuestMemfdBinding{vm_->fd(), 0};  // not a guest_memfd
  EXPECT_THAT(vm_->SetMemoryRegion(region),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(fake_.slots(vm_->fd()).size(), 1u);
  EXPECT_EQ(fake_.slots(vm_->fd())[0].size, 0x2000u);
}

TEST_F(FakeKvmTest, StepsForOneVcpuWaitForIt) {
  ASSERT_OK_AND_ASSIGN(VcpuFd first, vm_->CreateVcpu(0));
  ASSERT_OK_AND_ASSIGN(VcpuFd second, vm_->CreateVcpu(1));
  fake_.QueueExit(ShutdownExit{}, {}, 1);
  ASSERT_OK_AND_ASSIGN(RunOutcome outcome, first.Run());
  EXPECT_TRUE(std::holds_alternative<HaltExit>(outcome.exit));
  ASSERT_OK_AND_ASSIGN(outcome, second.Run());
  EXPECT_TRUE(std::holds_alternative<ShutdownExit>(outcome.exit));
}

TEST_F(FakeKvmTest, ANewVmReusesNothingOfAClosedOne) {
  ASSERT_OK(vm_->CreateVcpu(0).status());
  EXPECT_THAT(vm_->CreateVcpu(0), StatusIs(absl::StatusCode::kAlreadyExists));
  int old_fd = vm_->fd();
  vm_.reset();
  ASSERT_OK_AND_ASSIGN(Vm vm, system_->CreateVm(VmType::kDefault));
  ASSERT_EQ(vm.fd(), old_fd);  // the kernel gives out the lowest number
  EXPECT_OK(vm.CreateVcpu(0).status());
}

// A blocked KVM_RUN ends with EINTR when its thread gets a signal.
TEST_F(FakeKvmTest, BlockedRunEndsWithASignal) {
  struct sigaction action = {}, old;
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &old), 0);
  ASSERT_OK_AND_ASSIGN(VcpuFd vcpu, vm_->CreateVcpu(0));
  fake_.SetBlockWhenIdle(true);
  std::atomic<bool> done{false};
  std::thread runner([&] {
    absl::StatusOr<RunOutcome> outcome = vcpu.Run();
    ASSERT_TRUE(outcome.ok());
    EXPECT_EQ(outcome->kind, RunOutcome::Kind::kInterrupted);
    done = true;
  });
  while (!done) {
    pthread_kill(runner.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
  runner.join();
  ASSERT_EQ(sigaction(SIGUSR1, &old, nullptr), 0);
}

}  // namespace
}  // namespace cloister::kvm
