// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/runner.h"

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/kvm/vm.h"
#include "cloister/vcpu/kick_signal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

int KickSignal() { return SIGRTMIN + 1; }

// Writes down what it is asked, and answers from its fields. Not thread-safe:
// what a test reads while the vCPU is paused must be ordered by the Runner.
class Recorder : public ExitHandler {
 public:
  uint64_t PageStateGeneration() override {
    entries.fetch_add(1);
    if (before_entry) before_entry();
    return ++generation;
  }
  void OnPortRead(uint16_t port, absl::Span<uint8_t> data) override {
    Log(absl::StrCat("in ", port, " ", data.size(), " over ", data[0]));
    for (uint8_t& byte : data) byte = next_byte++;
    Hook();
  }
  Verdict OnPortWrite(uint16_t port, absl::Span<const uint8_t> data) override {
    Log(absl::StrCat("out ", port, " ", data.size(), " = ", data[0]));
    Hook();
    return verdict;
  }
  void OnMmioRead(GuestAddress address, absl::Span<uint8_t> data) override {
    Log(absl::StrCat("read ", address.ToString(), " ", data.size(), " over ",
                     data[0]));
    for (uint8_t& byte : data) byte = next_byte++;
    Hook();
  }
  Verdict OnMmioWrite(GuestAddress address,
                      absl::Span<const uint8_t> data) override {
    Log(absl::StrCat("write ", address.ToString(), " ", data.size(), " = ",
                     data[0]));
    Hook();
    return verdict;
  }
  uint64_t OnHypercall(const Hypercall& call) override {
    Log(absl::StrCat("hypercall ", call.number, " ", call.args[0], " ",
                     call.args[5], call.long_mode ? " long" : ""));
    Hook();
    return hypercall_result;
  }
  absl::Status OnMemoryFault(const kvm::MemoryFaultExit& fault,
                             uint64_t at) override {
    Log(absl::StrCat("fault ", fault.address.ToString(),
                     fault.is_private ? " private" : " shared", " at ", at));
    Hook();
    return fault_status;
  }
  bool OnMsr(MsrAccess& access) override {
    Log(absl::StrCat(access.is_write ? "wrmsr " : "rdmsr ", access.index, " ",
                     access.value));
    Hook();
    if (!access.is_write) access.value = 0x1122334455667788;
    return msr_ok;
  }
  void OnApicEoi(uint8_t vector) override {
    Log(absl::StrCat("eoi ", vector));
    Hook();
  }
  Verdict OnSystemEvent(const kvm::SystemEventExit& event) override {
    Log(absl::StrCat("system event ", event.type));
    return DefaultVerdict(event);
  }

  std::atomic<uint64_t> entries = 0;  // Into KVM_RUN.
  uint64_t generation = 0;
  uint8_t next_byte = 1;
  uint64_t hypercall_result = 0;
  Verdict verdict = Verdict::kContinue;
  absl::Status fault_status;
  bool msr_ok = true;
  std::function<void()> hook;
  std::function<void()> before_entry;
  std::vector<std::string> log;

 private:
  void Log(std::string line) { log.push_back(std::move(line)); }
  void Hook() {
    if (hook) hook();
  }
};

kvm::IoExit In(uint16_t port, uint8_t width = 1, uint32_t count = 1) {
  kvm::IoExit exit;
  exit.port = port;
  exit.width = width;
  exit.count = count;
  return exit;
}
kvm::IoExit Out(uint16_t port, uint8_t width = 1, uint32_t count = 1) {
  kvm::IoExit exit = In(port, width, count);
  exit.direction = kvm::IoExit::Direction::kOut;
  return exit;
}
kvm::MmioExit Mmio(uint64_t address, uint8_t length, bool is_write) {
  kvm::MmioExit exit;
  exit.address = GuestAddress(address);
  exit.length = length;
  exit.is_write = is_write;
  return exit;
}
kvm::MemoryFaultExit Fault(uint64_t address, bool is_private) {
  kvm::MemoryFaultExit exit;
  exit.address = GuestAddress(address);
  exit.size = 4096;
  exit.flags = is_private ? 8 : 0;
  exit.is_private = is_private;
  return exit;
}

class RunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(InstallKickHandler(KickSignal()));
    absl::StatusOr<kvm::System> system = kvm::System::Open(fake_);
    ASSERT_OK(system);
    absl::StatusOr<kvm::Vm> vm = system->CreateVm(kvm::VmType::kDefault);
    ASSERT_OK(vm);
    vm_ = std::make_unique<kvm::Vm>(*std::move(vm));
  }

  std::unique_ptr<Runner> MakeRunner(uint32_t index = 0,
                                     Runner::EndCallback on_end = {}) {
    return MakeRunner(recorder_, index, std::move(on_end));
  }
  std::unique_ptr<Runner> MakeRunner(ExitHandler& handler, uint32_t index,
                                     Runner::EndCallback on_end = {}) {
    absl::StatusOr<kvm::VcpuFd> vcpu = vm_->CreateVcpu(index);
    EXPECT_OK(vcpu);
    if (!vcpu.ok()) return nullptr;
    RunnerOptions options;
    options.index = index;
    options.kick_signal = KickSignal();
    options.no_memory_retries = 3;
    return std::make_unique<Runner>(*std::move(vcpu), handler, options,
                                    std::move(on_end));
  }
  // Runs what is queued, on this thread.
  RunEnd RunQueued(uint32_t index = 0) {
    std::unique_ptr<Runner> runner = MakeRunner(index);
    absl::StatusOr<RunEnd> end = runner->RunHere();
    EXPECT_OK(end);
    counters_ = runner->counters();
    return end.ok() ? *end : RunEnd{};
  }

  kvm::FakeKvm fake_;
  Recorder recorder_;
  ExitCounters::Snapshot counters_;
  std::unique_ptr<kvm::Vm> vm_;
};

// --- exits ---

TEST_F(RunnerTest, HandsExitsToTheHandler) {
  fake_.QueueExit(In(0x60, 2));
  fake_.QueueExit(Out(0x3f8), {'A'});
  fake_.QueueExit(Mmio(0xfee00000, 8, false));
  fake_.QueueExit(Mmio(0xfee00010, 4, true), {9, 0, 0, 0});
  kvm::HypercallExit call;
  call.number = 12;
  call.args = {1, 2, 3, 4, 5, 6};
  call.long_mode = true;
  fake_.QueueExit(call);
  kvm::MsrExit msr;
  msr.index = 0x123;
  fake_.QueueExit(msr);
  msr.is_write = true;
  msr.value = 77;
  fake_.QueueExit(msr);
  kvm::ApicEoiExit eoi;
  eoi.vector = 0x31;
  fake_.QueueExit(eoi);
  fake_.QueueExit(kvm::InterruptWindowExit{});
  recorder_.hypercall_result = 0xfedcba9876543210;

  EXPECT_EQ(RunQueued().kind, RunEnd::Kind::kHalted);

  EXPECT_THAT(recorder_.log,
              ElementsAre("in 96 2 over 255", "out 1016 1 = 65",
                          "read 0xfee00000 8 over 255",
                          "write 0xfee00010 4 = 9", "hypercall 12 1 6 long",
                          "rdmsr 291 0", "wrmsr 291 77", "eoi 49"));
  std::vector<std::vector<uint8_t>> answers = fake_.answers();
  ASSERT_GE(answers.size(), 4u);
  EXPECT_THAT(answers[0], ElementsAre(1, 2));
  EXPECT_THAT(answers[1], ElementsAre(3, 4, 5, 6, 7, 8, 9, 10));
  EXPECT_THAT(answers[2],
              ElementsAre(0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe));
  EXPECT_EQ(answers[3].front(), 0) << "no #GP";
  uint64_t value;
  memcpy(&value, &answers[3][answers[3].size() - 8], 8);
  EXPECT_EQ(value, 0x1122334455667788u);

  EXPECT_EQ(counters_[ExitKind::kPortRead], 1u);
  EXPECT_EQ(counters_[ExitKind::kPortWrite], 1u);
  EXPECT_EQ(counters_[ExitKind::kMmioRead], 1u);
  EXPECT_EQ(counters_[ExitKind::kMmioWrite], 1u);
  EXPECT_EQ(counters_[ExitKind::kHypercall], 1u);
  EXPECT_EQ(counters_[ExitKind::kMsrRead], 1u);
  EXPECT_EQ(counters_[ExitKind::kMsrWrite], 1u);
  EXPECT_EQ(counters_[ExitKind::kApicEoi], 1u);
  EXPECT_EQ(counters_[ExitKind::kHalt], 1u);
  EXPECT_EQ(counters_.last, ExitKind::kHalt);
  EXPECT_EQ(counters_.total(), 10u);
}

TEST_F(RunnerTest, StringIoComesElementByElement) {
  fake_.QueueExit(Out(0x3f8, 1, 3), {'x', 'y', 'z'});
  fake_.QueueExit(In(0x1f0, 2, 3));
  RunQueued();
  EXPECT_THAT(recorder_.log,
              ElementsAre("out 1016 1 = 120", "out 1016 1 = 121",
                          "out 1016 1 = 122", "in 496 2 over 255",
                          "in 496 2 over 255", "in 496 2 over 255"));
  ASSERT_FALSE(fake_.answers().empty());
  EXPECT_THAT(fake_.answers().back(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST_F(RunnerTest, MsrRefusalIsAGeneralProtectionFault) {
  recorder_.msr_ok = false;
  fake_.QueueExit(kvm::MsrExit{});
  RunQueued();
  ASSERT_EQ(fake_.answers().size(), 1u);
  EXPECT_NE(fake_.answers()[0].front(), 0);
  EXPECT_EQ(fake_.answers()[0].back(), 0) << "no value leaks to the guest";
}

TEST_F(RunnerTest, VerdictsEndTheRun) {
  for (auto [verdict, kind] : {std::pair(Verdict::kReset, RunEnd::Kind::kReset),
                               {Verdict::kPowerOff, RunEnd::Kind::kPowerOff}}) {
    recorder_.verdict = verdict;
    recorder_.log.clear();
    fake_.QueueExit(Out(0xcf9, 1, 2), {6, 6});
    RunEnd end = RunQueued(static_cast<uint32_t>(kind));
    EXPECT_EQ(end.kind, kind);
    EXPECT_OK(end.status);
    EXPECT_EQ(recorder_.log.size(), 1u) << "the rest of the string is moot";
    fake_.QueueExit(Mmio(0x1000, 1, true), {1});
    EXPECT_EQ(RunQueued(10 + static_cast<uint32_t>(kind)).kind, kind);
  }
}

TEST_F(RunnerTest, SystemEvents) {
  kvm::SystemEventExit event;
  event.type = kvm::SystemEventExit::kReset;
  fake_.QueueExit(event);
  EXPECT_EQ(RunQueued(0).kind, RunEnd::Kind::kReset);
  event.type = kvm::SystemEventExit::kShutdown;
  fake_.QueueExit(event);
  EXPECT_EQ(RunQueued(1).kind, RunEnd::Kind::kPowerOff);
  event.type = kvm::SystemEventExit::kCrash;
  fake_.QueueExit(event);
  RunEnd end = RunQueued(2);
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(std::string(end.status.message()),
              AllOf(HasSubstr("vCPU 2: " + kvm::DescribeExit(event)),
                    HasSubstr("crash")));
}

// --- faults ---

TEST_F(RunnerTest, MemoryFaultCarriesTheGenerationOfItsEntry) {
  recorder_.generation = 40;
  fake_.QueueRunErrno(EFAULT, kvm::Exit(Fault(0x5000, true)));
  fake_.QueueRunErrno(EHWPOISON, kvm::Exit(Fault(0x6000, false)));
  fake_.QueueExit(Fault(0x7000, true));
  RunEnd end = RunQueued();
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted);
  EXPECT_THAT(recorder_.log, ElementsAre("fault 0x5000 private at 41",
                                         "fault 0x6000 shared at 42",
                                         "fault 0x7000 private at 43"));
  EXPECT_EQ(counters_[ExitKind::kMemoryFault], 3u);
}

TEST_F(RunnerTest, DeniedMemoryFaultNamesAddressAndRip) {
  recorder_.fault_status =
      absl::PermissionDeniedError("implicit conversion is denied");
  fake_.QueueRunErrno(EFAULT, kvm::Exit(Fault(0x5000, true)));
  RunEnd end = RunQueued(3);
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(end.status,
              StatusIs(absl::StatusCode::kPermissionDenied,
                       AllOf(HasSubstr("vCPU 3: "),
                             HasSubstr("EXIT_MEMORY_FAULT: private "
                                       "access at GPA 0x5000"),
                             HasSubstr("implicit conversion is denied"),
                             HasSubstr("at RIP 0x"))));
  EXPECT_THAT(end.registers, HasSubstr("cr3="));
}

// --- errors ---

// It is the guest's, as its registers are: whoever shows one shows both.
TEST_F(RunnerTest, TheInstructionIsAmongTheRegisters) {
  kvm::InternalErrorExit exit;
  exit.suberror = kvm::InternalErrorExit::kEmulation;
  exit.count = 3;
  exit.data = {1, 0x0000'0000'0aa2'0f03, 0};
  fake_.QueueExit(exit);
  const RunEnd end = RunQueued(0);
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(std::string(end.status.message()), Not(HasSubstr("0f a2")));
  EXPECT_THAT(end.registers, HasSubstr("instruction 0f a2 0a\n"));
}

TEST_F(RunnerTest, FatalExitsAreNamed) {
  kvm::InternalErrorExit internal;
  internal.suberror = kvm::InternalErrorExit::kEmulation;
  kvm::FailEntryExit entry;
  entry.hardware_reason = 0x80000021;
  kvm::UnknownExit unknown;
  unknown.hardware_reason = 0x55;
  kvm::DebugExit debug;
  kvm::OtherExit other;
  other.number = 33;
  const std::pair<kvm::Exit, std::string> exits[] = {
      {internal, "EXIT_INTERNAL_ERROR: suberror 1"},
      {entry, "EXIT_FAIL_ENTRY: hardware reason 0x80000021"},
      {unknown, "EXIT_UNKNOWN: hardware reason 0x55"},
      {debug, "EXIT_DEBUG"},
      {other, "EXIT_X86_BUS_LOCK"},
  };
  uint32_t index = 0;
  for (const auto& [exit, text] : exits) {
    fake_.QueueExit(exit);
    RunEnd end = RunQueued(index);
    EXPECT_EQ(end.kind, RunEnd::Kind::kError);
    EXPECT_THAT(
        std::string(end.status.message()),
        AllOf(StartsWith(
                  absl::StrCat("vCPU ", index, ": ", kvm::DescribeExit(exit))),
              HasSubstr(text), HasSubstr("at RIP 0x"), Not(HasSubstr("\n"))));
    EXPECT_THAT(end.registers, HasSubstr("rip="));
    ++index;
  }
}

TEST_F(RunnerTest, TripleFaultHasItsOwnEndAndRegisters) {
  fake_.QueueExit(kvm::ShutdownExit{});
  std::unique_ptr<Runner> runner = MakeRunner(1);
  kvm::Registers registers;
  registers.rip = 0xfeed;
  ASSERT_OK(runner->vcpu().SetRegisters(registers));
  ASSERT_OK_AND_ASSIGN(RunEnd end, runner->RunHere());
  EXPECT_EQ(end.kind, RunEnd::Kind::kGuestShutdown);
  EXPECT_THAT(std::string(end.status.message()),
              HasSubstr("EXIT_SHUTDOWN: triple fault, at RIP 0xfeed"));
  EXPECT_THAT(end.registers, HasSubstr("rip=000000000000feed"));
  EXPECT_THAT(end.registers, Not(HasSubstr("KVM reset")));
}

TEST_F(RunnerTest, TripleFaultThatKvmResetSaysSo) {
  fake_.QueueExit(kvm::ShutdownExit{});
  std::unique_ptr<Runner> runner = MakeRunner(1);
  kvm::Registers registers;
  registers.rip = 0xfff0;
  ASSERT_OK(runner->vcpu().SetRegisters(registers));
  kvm::SpecialRegisters special;
  special.cs.base = 0xffff0000;
  ASSERT_OK(runner->vcpu().SetSpecialRegisters(special));
  ASSERT_OK_AND_ASSIGN(RunEnd end, runner->RunHere());
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("RIP is lost"));
  EXPECT_THAT(end.registers, HasSubstr("KVM reset this vCPU"));
}

TEST_F(RunnerTest, UnreadableRegistersAreSaid) {
  fake_.QueueExit(kvm::ShutdownExit{});
  fake_.QueueErrno(kvm::Requests::kGetRegisters, EPERM);
  RunEnd end = RunQueued();
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("RIP not readable"));
  EXPECT_THAT(end.registers, IsEmpty());
}

TEST_F(RunnerTest, BareEfaultIsAnErrorWhateverTheExitReasonWas) {
  fake_.QueueExit(In(0x60));
  fake_.QueueRunErrno(EFAULT);
  RunEnd end = RunQueued();
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(std::string(end.status.message()),
              AllOf(HasSubstr("RUN(vCPU 0) at RIP 0x"), HasSubstr("EFAULT")));
  EXPECT_THAT(end.registers, HasSubstr("rip="));
  EXPECT_EQ(recorder_.log.size(), 1u);
}

// --- results that are no exits ---

TEST_F(RunnerTest, StaleExitReasonsAreNotLookedAt) {
  fake_.QueueRunErrno(EINTR, kvm::Exit(Out(0x80)));
  fake_.QueueRunErrno(EAGAIN, kvm::Exit(Fault(0x1000, true)));
  fake_.QueueRunErrno(EINTR, kvm::Exit(kvm::ShutdownExit{}));
  RunEnd end = RunQueued();
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted);
  EXPECT_THAT(recorder_.log, IsEmpty());
  EXPECT_EQ(counters_[ExitKind::kInterrupted], 2u);
  EXPECT_EQ(counters_[ExitKind::kRetry], 1u);
}

TEST_F(RunnerTest, WaitingForSipiIsRetried) {
  for (int i = 0; i < 1000; ++i) fake_.QueueRunErrno(EAGAIN);
  EXPECT_EQ(RunQueued().kind, RunEnd::Kind::kHalted);
  EXPECT_EQ(counters_[ExitKind::kRetry], 1000u);
}

TEST_F(RunnerTest, SpuriousNoMemoryIsRetriedSoManyTimesInARow) {
  for (int i = 0; i < 3; ++i) fake_.QueueRunErrno(ENOMEM);
  fake_.QueueExit(Out(0x80), {1});
  for (int i = 0; i < 3; ++i) fake_.QueueRunErrno(ENOMEM);
  RunEnd end = RunQueued(0);
  EXPECT_EQ(end.kind, RunEnd::Kind::kHalted) << end.status;
  EXPECT_EQ(counters_[ExitKind::kNoMemory], 6u);

  for (int i = 0; i < 4; ++i) fake_.QueueRunErrno(ENOMEM);
  end = RunQueued(1);
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(end.status, StatusIs(absl::StatusCode::kResourceExhausted,
                                   HasSubstr("ENOMEM")));
}

TEST_F(RunnerTest, OtherErrnosEndTheRun) {
  fake_.QueueRunErrno(EIO);
  RunEnd end = RunQueued();
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("EIO"));
}

// --- starting and stopping ---

TEST_F(RunnerTest, NeedsAKickHandler) {
  absl::StatusOr<kvm::VcpuFd> vcpu = vm_->CreateVcpu(0);
  ASSERT_OK(vcpu);
  RunnerOptions options;
  options.kick_signal = SIGRTMIN + 7;
  Runner runner(*std::move(vcpu), recorder_, options, {});
  EXPECT_THAT(runner.Start(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("has no handler")));
  EXPECT_THAT(runner.RunHere(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(runner.Wait().kind, RunEnd::Kind::kStopped);
}

TEST_F(RunnerTest, RunsOnce) {
  fake_.SetBlockWhenIdle(true);
  std::unique_ptr<Runner> runner = MakeRunner(5);
  ASSERT_OK(runner->Start());
  EXPECT_THAT(runner->Start(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("vCPU 5 was started before")));
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
  EXPECT_THAT(runner->Start(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped) << "again is harmless";
}

TEST_F(RunnerTest, StopBeforeStartRunsNothing) {
  std::unique_ptr<Runner> runner = MakeRunner();
  runner->RequestStop();
  ASSERT_OK(runner->Start());
  EXPECT_EQ(runner->Wait().kind, RunEnd::Kind::kStopped);
  EXPECT_EQ(fake_.CountOf(kvm::Requests::kRun), 0u);
}

TEST_F(RunnerTest, TheStartHookRunsFirstAndOnTheVcpusThread) {
  absl::StatusOr<kvm::VcpuFd> vcpu = vm_->CreateVcpu(0);
  ASSERT_OK(vcpu);
  std::thread::id hook_thread, entry_thread;
  uint64_t entries_at_hook = 1;
  RunnerOptions options;
  options.kick_signal = KickSignal();
  options.on_start = [&] {
    hook_thread = std::this_thread::get_id();
    entries_at_hook = recorder_.entries.load();
  };
  recorder_.before_entry = [&] { entry_thread = std::this_thread::get_id(); };
  fake_.QueueExit(kvm::HaltExit{});
  Runner runner(*std::move(vcpu), recorder_, options, {});
  ASSERT_OK(runner.Start());
  EXPECT_EQ(runner.Wait().kind, RunEnd::Kind::kHalted);
  EXPECT_EQ(entries_at_hook, 0u);
  EXPECT_EQ(hook_thread, entry_thread);
  EXPECT_NE(hook_thread, std::this_thread::get_id());
}

// For who waits for several vCPUs at once, and for other things beside.
TEST_F(RunnerTest, TheParkHookRunsOnceForEachTimeItParks) {
  fake_.SetBlockWhenIdle(true);
  absl::StatusOr<kvm::VcpuFd> vcpu = vm_->CreateVcpu(0);
  ASSERT_OK(vcpu);
  std::atomic<int> parked = 0;
  RunnerOptions options;
  options.kick_signal = KickSignal();
  options.on_park = [&] { ++parked; };
  Runner runner(*std::move(vcpu), recorder_, options, {});
  uint64_t before = recorder_.entries.load();
  ASSERT_OK(runner.Start());
  for (int i = 1; i <= 50; ++i) {
    while (recorder_.entries.load() == before) std::this_thread::yield();
    runner.RequestPause();
    while (parked != i) std::this_thread::yield();
    EXPECT_TRUE(runner.paused());
    runner.KickAgain();                 // does nothing: every signal was sent
    before = recorder_.entries.load();  // it is parked: nobody enters
    runner.Resume();
  }
  runner.Stop();
  EXPECT_EQ(parked, 50);
}

TEST_F(RunnerTest, PauseBeforeStartStartsParked) {
  std::unique_ptr<Runner> runner = MakeRunner();
  EXPECT_TRUE(runner->Pause());
  ASSERT_OK(runner->Start());
  EXPECT_TRUE(runner->Pause());
  EXPECT_TRUE(runner->paused());
  EXPECT_EQ(fake_.CountOf(kvm::Requests::kRun), 0u);
  runner->Resume();
  EXPECT_EQ(runner->Wait().kind, RunEnd::Kind::kHalted);
}

TEST_F(RunnerTest, NaturalEndIsReportedOnceAndToEveryone) {
  int calls = 0;
  Runner* self = nullptr;
  std::unique_ptr<Runner> runner = MakeRunner(0, [&](const RunEnd& end) {
    ++calls;
    EXPECT_EQ(end.kind, RunEnd::Kind::kHalted);
    ASSERT_TRUE(self->end().has_value());
    EXPECT_TRUE(self->paused());
  });
  self = runner.get();
  EXPECT_FALSE(runner->end().has_value());
  ASSERT_OK(runner->Start());
  EXPECT_EQ(runner->Wait().kind, RunEnd::Kind::kHalted);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(runner->Pause()) << "an ended vCPU stays out";
  runner->Resume();
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kHalted)
      << "the first end stays";
  EXPECT_EQ(calls, 1);
}

TEST_F(RunnerTest, OneVcpusErrorStopsTheOthers) {
  fake_.SetBlockWhenIdle(true);
  Recorder recorders[4];
  std::vector<std::unique_ptr<Runner>> runners;
  auto stop_all = [&runners](const RunEnd& end) {
    if (end.kind == RunEnd::Kind::kStopped) return;
    for (auto& runner : runners) runner->RequestStop();
  };
  for (uint32_t i = 0; i < 4; ++i) {
    runners.push_back(MakeRunner(recorders[i], i, stop_all));
  }
  for (auto& runner : runners) ASSERT_OK(runner->Start());
  fake_.QueueExit(kvm::ShutdownExit{}, {}, 2);
  // Vcpu 2 blocks until kicked; this makes it look at its queue.
  runners[2]->Pause();
  runners[2]->Resume();
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(runners[i]->Wait().kind,
              i == 2 ? RunEnd::Kind::kGuestShutdown : RunEnd::Kind::kStopped);
  }
}

TEST_F(RunnerTest, HandlerMayAskForTheEnd) {
  std::unique_ptr<Runner> runner = MakeRunner();
  recorder_.hook = [&runner] { runner->RequestStop(); };
  fake_.SetBlockWhenIdle(true);
  fake_.QueueExit(Out(0x64), {0xfe});
  ASSERT_OK_AND_ASSIGN(RunEnd end, runner->RunHere());
  EXPECT_EQ(end.kind, RunEnd::Kind::kStopped);
}

// --- pausing ---

// Lets a resumed vCPU get to different places before it is disturbed again:
// through its next entry, or some moments more or less.
class Disturber {
 public:
  explicit Disturber(const Recorder& guest) : guest_(guest) {}

  // Call while the vCPU is paused.
  void NoteEntries() { entries_ = guest_.entries; }
  // Call after it was resumed.
  void LetRun(int round) {
    if (round % 2 == 0) {
      while (guest_.entries == entries_) std::this_thread::yield();
    }
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    for (uint64_t i = 0; i < state_ >> 56; ++i) {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
  }

 private:
  const Recorder& guest_;
  uint64_t entries_ = 0;
  uint64_t state_ = 1;
};

TEST_F(RunnerTest, PauseCompletesThePendingExit) {
  fake_.SetBlockWhenIdle(true);
  std::unique_ptr<Runner> runner = MakeRunner();
  recorder_.hook = [&runner] { runner->RequestPause(); };
  recorder_.hypercall_result = 5;
  const kvm::Exit exits[] = {In(0x60), Mmio(0x1000, 1, false),
                             kvm::HypercallExit{}, kvm::MsrExit{}};
  for (const kvm::Exit& exit : exits) fake_.QueueExit(exit);
  ASSERT_OK(runner->Start());
  for (size_t i = 1; i <= std::size(exits); ++i) {
    // Who waits without having asked must wait for somebody to ask.
    while (!runner->WaitPaused()) std::this_thread::yield();
    EXPECT_EQ(recorder_.log.size(), i);
    EXPECT_EQ(fake_.answers().size(), i) << "KVM has the answer";
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
}

TEST_F(RunnerTest, StopCompletesThePendingExit) {
  std::unique_ptr<Runner> runner = MakeRunner();
  recorder_.hook = [&runner] { runner->RequestStop(); };
  fake_.QueueExit(In(0x60));
  ASSERT_OK_AND_ASSIGN(RunEnd end, runner->RunHere());
  EXPECT_EQ(end.kind, RunEnd::Kind::kStopped);
  EXPECT_EQ(fake_.answers().size(), 1u);
}

TEST_F(RunnerTest, CompletingIsBounded) {
  std::unique_ptr<Runner> runner = MakeRunner();
  recorder_.hook = [&] {
    runner->RequestPause();
    fake_.SetHandler(kvm::Requests::kRun, [](int, uintptr_t) {
      errno = EAGAIN;
      return -1;
    });
  };
  fake_.QueueExit(In(0x60));
  ASSERT_OK_AND_ASSIGN(RunEnd end, runner->RunHere());
  EXPECT_EQ(end.kind, RunEnd::Kind::kError);
  EXPECT_THAT(std::string(end.status.message()),
              HasSubstr("does not take the answer"));
}

TEST_F(RunnerTest, PausedVcpuIsTheOwners) {
  fake_.SetBlockWhenIdle(true);
  std::unique_ptr<Runner> runner = MakeRunner();
  ASSERT_OK(runner->Start());
  Disturber disturber(recorder_);
  for (uint64_t i = 1; i <= 100; ++i) {
    disturber.LetRun(0);
    ASSERT_TRUE(runner->Pause());
    disturber.NoteEntries();
    ASSERT_TRUE(runner->paused());
    kvm::Registers registers;
    registers.rax = i;
    ASSERT_OK(runner->vcpu().SetRegisters(registers));
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
  ASSERT_OK_AND_ASSIGN(kvm::Registers registers, runner->vcpu().GetRegisters());
  EXPECT_EQ(registers.rax, 100u);
}

TEST_F(RunnerTest, ResumeWithdrawsAPause) {
  fake_.SetBlockWhenIdle(true);
  std::unique_ptr<Runner> runner = MakeRunner();
  ASSERT_OK(runner->Start());
  runner->RequestPause();
  runner->Resume();
  EXPECT_FALSE(runner->WaitPaused());
  EXPECT_FALSE(runner->paused());
}

TEST_F(RunnerTest, DestructorStops) {
  fake_.SetBlockWhenIdle(true);
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<Runner> runner = MakeRunner(i);
    ASSERT_OK(runner->Start());
    if (i == 1) runner->Pause();
  }
  std::unique_ptr<Runner> never_started = MakeRunner(7);
}

// --- races ---

// A guest that does nothing but write to a port, for ever.
class BusyGuest : public Recorder {
 public:
  BusyGuest(kvm::FakeKvm& fake, uint32_t vcpu) : fake_(fake), vcpu_(vcpu) {
    Queue();
  }
  Verdict OnPortWrite(uint16_t, absl::Span<const uint8_t>) override {
    ++writes;
    Queue();
    return Verdict::kContinue;
  }
  // Plain on purpose: ThreadSanitizer then sees a pause that orders nothing.
  uint64_t writes = 0;

 private:
  void Queue() { fake_.QueueExit(Out(0x80), {1}, vcpu_); }

  kvm::FakeKvm& fake_;
  const uint32_t vcpu_;
};

TEST_F(RunnerTest, PausedMeansPausedThousandsOfTimes) {
  BusyGuest guest(fake_, 0);
  std::unique_ptr<Runner> runner = MakeRunner(guest, 0);
  Disturber disturber(guest);
  ASSERT_OK(runner->Start());
  for (int i = 0; i < 2000; ++i) {
    disturber.LetRun(i);
    ASSERT_TRUE(runner->Pause());
    disturber.NoteEntries();
    uint64_t writes = guest.writes;
    std::this_thread::yield();
    ASSERT_EQ(guest.writes, writes);
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
  EXPECT_GE(guest.entries, 1000u) << "and it runs in between";
}

// The fake returns from a blocked KVM_RUN only for immediate_exit or a signal:
// a lost kick hangs this test.
TEST_F(RunnerTest, NoKickIsLostOnABlockedVcpu) {
  fake_.SetBlockWhenIdle(true);
  std::unique_ptr<Runner> runner = MakeRunner();
  Disturber disturber(recorder_);
  ASSERT_OK(runner->Start());
  for (int i = 0; i < 10000; ++i) {
    disturber.LetRun(i);
    ASSERT_TRUE(runner->Pause());
    disturber.NoteEntries();
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
  EXPECT_GE(runner->kicks(), 5000u);
}

// The signal is spent on the way to KVM_RUN: only immediate_exit, which must
// not be cleared there any more, keeps it from blocking.
TEST_F(RunnerTest, KickJustBeforeEntryIsNotLost) {
  fake_.SetBlockWhenIdle(true);
  std::unique_ptr<Runner> runner = MakeRunner();
  recorder_.before_entry = [&runner] { runner->RequestPause(); };
  ASSERT_OK(runner->Start());
  for (uint64_t i = 1; i <= 100; ++i) {
    while (!runner->WaitPaused()) std::this_thread::yield();
    EXPECT_EQ(recorder_.entries, i);
    EXPECT_EQ(runner->kicks(), i);
    runner->Resume();
  }
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
}

// The signal alone, as for a guest that is in guest mode already when
// immediate_exit is set: KVM looks at that only on entry.
TEST_F(RunnerTest, SignalReachesAVcpuInGuestMode) {
  std::atomic<bool> entered = false;
  fake_.SetHandler(kvm::Requests::kRun, [&entered](int, uintptr_t) {
    // Blocked before the flag is up, so that the signal cannot come too early:
    // sigsuspend unblocks and waits in one step.
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, KickSignal());
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    entered = true;
    sigsuspend(&before);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = EINTR;
    return -1;
  });
  std::unique_ptr<Runner> runner = MakeRunner();
  ASSERT_OK(runner->Start());
  for (int i = 0; i < 500; ++i) {
    while (!entered.exchange(false)) std::this_thread::yield();
    ASSERT_TRUE(runner->Pause());
    runner->Resume();
  }
  while (!entered) std::this_thread::yield();
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
  EXPECT_EQ(runner->kicks(), 501u);
}

TEST_F(RunnerTest, ManyThreadsMayAskAtOnce) {
  BusyGuest guest(fake_, 0);
  std::unique_ptr<Runner> runner = MakeRunner(guest, 0);
  ASSERT_OK(runner->Start());
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&runner, t] {
      for (int i = 0; i < 1000; ++i) {
        if (t == 0) {
          runner->Pause();
        } else if (t == 1) {
          runner->RequestPause();
          runner->paused();
        } else {
          runner->counters();
        }
        runner->Resume();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(runner->Pause());
  EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
}

TEST_F(RunnerTest, StopRacesWithPauseResumeAndStart) {
  fake_.SetBlockWhenIdle(true);
  for (uint32_t i = 0; i < 300; ++i) {
    Recorder recorder;
    std::unique_ptr<Runner> runner = MakeRunner(recorder, i);
    std::atomic<int> ready = 0;
    auto meet = [&ready] {
      ++ready;
      while (ready < 3) std::this_thread::yield();
    };
    std::thread pauser([&] {
      meet();
      runner->Pause();
      runner->Resume();
    });
    std::thread stopper([&, i] {
      meet();
      // Half of them after it has been in KVM_RUN.
      while (i % 2 == 0 && recorder.entries == 0) std::this_thread::yield();
      EXPECT_EQ(runner->Stop().kind, RunEnd::Kind::kStopped);
    });
    meet();
    EXPECT_OK(runner->Start());
    pauser.join();
    stopper.join();
    EXPECT_EQ(runner->Wait().kind, RunEnd::Kind::kStopped);
  }
}

TEST_F(RunnerTest, WholeVmPausesTogether) {
  std::vector<std::unique_ptr<BusyGuest>> guests;
  std::vector<std::unique_ptr<Runner>> runners;
  for (uint32_t i = 0; i < 4; ++i) {
    guests.push_back(std::make_unique<BusyGuest>(fake_, i));
    runners.push_back(MakeRunner(*guests[i], i));
    ASSERT_OK(runners[i]->Start());
  }
  Disturber disturber(*guests[3]);
  for (int i = 0; i < 200; ++i) {
    disturber.LetRun(i);
    for (auto& runner : runners) runner->RequestPause();
    for (auto& runner : runners) ASSERT_TRUE(runner->WaitPaused());
    uint64_t sum = 0;
    for (auto& guest : guests) sum += guest->writes;
    std::this_thread::yield();
    for (auto& guest : guests) sum -= guest->writes;
    ASSERT_EQ(sum, 0u);
    disturber.NoteEntries();
    for (auto& runner : runners) runner->Resume();
  }
}

}  // namespace
}  // namespace cloister::vcpu
