// SPDX-License-Identifier: Apache-2.0
//
// Whole VMs of every backend that the host has, run by kernels of a few
// instructions: pausing, the launch through the shim, ends, relaunching.
#include "cloister/vmm/micro_vm.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/confidential/backend_factory.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/device_control.h"
#include "cloister/vmm/layout.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {

class MicroVmPeer {
 public:
  static void OnFatal(MicroVm& vm, const absl::Status& status) {
    vm.OnFatal(status);
  }
};

namespace {

using ::cloister::base::IsOkAndHolds;
using ::cloister::base::StatusIs;
using confidential::BackendChoice;
using confidential::BackendKind;
using memory::GuestAddress;
using memory::GuestRange;
using memory::HostConversionReason;
using memory::kPageSize;
using memory::PageState;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Collects what the guest prints; lets a test wait for it.
class RecordingSink : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    text_.append(bytes.begin(), bytes.end());
    changed_.SignalAll();
    return bytes.size();
  }
  // What was printed, once it is that long.
  std::string WaitFor(size_t length) {
    base::MutexLock lock(&mutex_);
    while (text_.size() < length) changed_.Wait(&mutex_);
    return text_;
  }
  size_t size() { return WaitFor(0).size(); }
  std::string Take() {
    base::MutexLock lock(&mutex_);
    return std::exchange(text_, "");
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

// Keeps the monitor's warnings of implicit conversions.
class Warnings {
 public:
  base::Logger& log() { return log_; }
  std::vector<std::string> Take() {
    base::MutexLock lock(&mutex_);
    return std::exchange(lines_, {});
  }

 private:
  base::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  base::Logger log_{[this](base::LogLevel, absl::string_view line) {
                      if (!absl::StrContains(line, "implicit")) return;
                      base::MutexLock lock(&mutex_);
                      lines_.emplace_back(line);
                    },
                    base::LogLevel::kWarning};
};

// In the lab guests may use VMMCALL; the software KVM that some machines have
// does not come back from it.
bool InLab() { return std::getenv("CLOISTER_IN_LAB") != nullptr; }

// Kernels of sw-protected guests are code in a guest_memfd, which the lab's
// unpatched kernel cannot decode.
bool RunsPrivateCode() {
  const char* lab = std::getenv("CLOISTER_IN_LAB");
  return lab == nullptr || std::string(lab) == "patched";
}

GuestRange Page(uint64_t address) {
  return *GuestRange::Create(GuestAddress(address), kPageSize);
}

class MicroVmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto system = kvm::System::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
    ASSERT_OK_AND_ASSIGN(facts_, confidential::CollectHostFacts(*system));
    config_.memory.bytes = 32 << 20;
    config_.confidential.reports =
        InLab() ? ConversionReports::kHypercall : ConversionReports::kFault;
    hooks_.console = &sink_;
    hooks_.log = &warnings_.log();
    hooks_.kick_signal = SIGRTMIN;
  }

  // Why `kind` cannot be tested here; empty if it can.
  std::string WhyNot(BackendKind kind) const {
    if (kind == BackendKind::kSwProtected && !RunsPrivateCode()) {
      return "this kernel cannot decode private code";
    }
    return confidential::MissingFor(kind, facts_, InLab());
  }

  void Use(BackendKind kind) {
    switch (kind) {
      case BackendKind::kOff:
        config_.confidential.backend = BackendChoice::kOff;
        break;
      case BackendKind::kEmulated:
        config_.confidential.backend = BackendChoice::kEmulated;
        break;
      case BackendKind::kSwProtected:
        config_.confidential.backend = BackendChoice::kSwProtected;
        break;
    }
  }

  std::unique_ptr<MicroVm> Make(MicroKernel kernel) {
    config_.kernel.path = absl::StrCat(::testing::TempDir(), "/micro-kernel");
    EXPECT_OK(WriteMicroKernel(kernel, config_.kernel.path));
    auto vm = BuildVm(config_, hooks_);
    EXPECT_OK(vm);
    return vm.ok() ? *std::move(vm) : nullptr;
  }

  // True if the guest prints nothing for a while in which it could a lot.
  bool StandsStill() {
    const size_t before = sink_.size();
    std::this_thread::sleep_for(milliseconds(30));
    return sink_.size() == before;
  }

  confidential::HostFacts facts_;
  VmConfig config_;
  RecordingSink sink_;
  Warnings warnings_;
  VmHooks hooks_;
};

class BackendVmTest : public MicroVmTest,
                      public ::testing::WithParamInterface<BackendKind> {
 protected:
  void SetUp() override {
    MicroVmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string why_not = WhyNot(GetParam());
    if (!why_not.empty()) GTEST_SKIP() << "this host lacks " << why_not;
    Use(GetParam());
  }
};

std::string KindName(const ::testing::TestParamInfo<BackendKind>& info) {
  return info.param == BackendKind::kSwProtected
             ? "sw_protected"
             : std::string(confidential::BackendKindName(info.param));
}

INSTANTIATE_TEST_SUITE_P(Kinds, BackendVmTest,
                         ::testing::Values(BackendKind::kOff,
                                           BackendKind::kEmulated,
                                           BackendKind::kSwProtected),
                         KindName);

// --- pausing ---

TEST_P(BackendVmTest, PausesNestAndResumesTooManyDoNothing) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  vm->Resume();
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  vm->Resume();
  for (int round = 0; round < 3; ++round) {
    vm->Pause();
    vm->Pause();
    EXPECT_TRUE(StandsStill());
    vm->Resume();
    EXPECT_TRUE(StandsStill()) << "one of two pauses is left";
    vm->Resume();
    sink_.WaitFor(sink_.size() + 1);
    vm->Resume();
    vm->Resume();
  }
}

TEST_P(BackendVmTest, AVmPausedBeforeItsStartWaitsForResume) {
  auto vm = Make(MicroKernel::kOff);
  ASSERT_NE(vm, nullptr);
  vm->Pause();
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->counters(0).total(), 0u);
  vm->Resume();
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
}

TEST_P(BackendVmTest, APausedVmCanBeStopped) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  vm->Pause();
  vm->Stop();
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kStopped);
  vm->Pause();
  vm->Resume();
  vm->Resume();
}

TEST_P(BackendVmTest, PauseAndResumeFromManyThreads) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&vm] {
      for (int round = 0; round < 20; ++round) {
        vm->Pause();
        vm->Resume();
        vm->Resume();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  sink_.WaitFor(sink_.size() + 1);
}

// A guest that does nothing but convert: its requests complete before or after
// the pause, the host's are refused in it, and none is lost.
TEST_P(BackendVmTest, ConversionsGoOnAfterEachPause) {
  if (GetParam() == BackendKind::kOff) {
    GTEST_SKIP() << "not applicable: converts nothing";
  }
  if (!InLab()) GTEST_SKIP() << "VMMCALL is tried in the lab only";
  auto vm = Make(MicroKernel::kConvert);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  const GuestRange page = Page(kMicroKernelData + kPageSize);
  for (int i = 0; i < 20; ++i) {
    sink_.WaitFor(sink_.size() + 2);
    vm->Pause();
    EXPECT_LE(vm->broker()->stats().queued, 1u);
    const uint64_t before = vm->broker()->stats().to_shared[0].requests;
    EXPECT_THAT(
        vm->broker()->ConvertForHost({&page, 1}, PageState::kShared,
                                     HostConversionReason::kExchangeWindow),
        StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_TRUE(StandsStill());
    EXPECT_EQ(vm->broker()->stats().to_shared[0].requests, before);
    vm->Resume();
  }
  sink_.WaitFor(sink_.size() + 2);
  vm->Stop();
  vm->Wait();
  EXPECT_THAT(sink_.Take(), Not(HasSubstr("E")));
  const memory::ConversionStats stats = vm->broker()->stats();
  EXPECT_EQ(stats.failed, 0u);
  EXPECT_GT(stats.to_shared[0].requests, 40u);
}

// Whatever a vCPU's request waits for, a pause does not wait for it.
TEST_P(BackendVmTest, AVcpuThatWaitsForAConversionIsPaused) {
  if (GetParam() == BackendKind::kOff) {
    GTEST_SKIP() << "not applicable: converts nothing";
  }
  if (!InLab()) GTEST_SKIP() << "VMMCALL is tried in the lab only";
  auto vm = Make(MicroKernel::kConvert);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  sink_.WaitFor(2);
  vm->broker()->Pause();
  while (vm->broker()->held() == 0) std::this_thread::yield();
  vm->Pause();
  EXPECT_TRUE(StandsStill());
  vm->broker()->Resume();
  EXPECT_TRUE(StandsStill());
  EXPECT_EQ(vm->broker()->held(), 1u);
  vm->Resume();
  sink_.WaitFor(sink_.size() + 2);
  EXPECT_EQ(vm->broker()->stats().failed, 0u);  // the end may cut one off
  vm->Stop();
  vm->Wait();
  EXPECT_THAT(sink_.Take(), Not(HasSubstr("E")));
}

// --- launch ---

class ConfidentialVmTest : public BackendVmTest {
 protected:
  // Where the first byte of the kernel is placed.
  static constexpr uint64_t kKernel = 0x1000000;

  bool AllPrivate(MicroVm& vm) const {
    return vm.states().IsWholly(
        *GuestRange::Create(GuestAddress(kLowMemoryEnd),
                            config_.memory.bytes - kLowMemoryEnd),
        PageState::kPrivate);
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, ConfidentialVmTest,
                         ::testing::Values(BackendKind::kEmulated,
                                           BackendKind::kSwProtected),
                         KindName);

TEST_P(ConfidentialVmTest, VerifiedLaunchMakesAllMemoryPrivate) {
  for (ConversionReports reports :
       {ConversionReports::kHypercall, ConversionReports::kFault}) {
    if (reports == ConversionReports::kHypercall && !InLab()) continue;
    config_.confidential.reports = reports;
    auto vm = Make(MicroKernel::kPrint);
    ASSERT_NE(vm, nullptr);
    EXPECT_FALSE(AllPrivate(*vm)) << "the launch image is staged";
    EXPECT_TRUE(vm->states().IsWholly(Page(kKernel), PageState::kShared));
    ASSERT_TRUE(vm->digest().has_value());
    ASSERT_OK(vm->Start());
    sink_.WaitFor(sink_.size() + 1);
    EXPECT_TRUE(AllPrivate(*vm));
    EXPECT_FALSE(vm->view().Acquire(Page(kKernel)).ok());
    const GuestRange page = Page(kMicroKernelData);
    EXPECT_THAT(vm->broker()->ConvertForHost({&page, 1}, PageState::kShared,
                                             HostConversionReason::kBeforeBoot),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr("guest owns this page")));
    vm->Stop();
    EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kStopped);
  }
}

TEST_P(ConfidentialVmTest, AChangedByteIsRefusedAndSaidOnTheSerialPort) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK_AND_ASSIGN(uint8_t byte,
                       vm->view().Load<uint8_t>(GuestAddress(kKernel),
                                                std::memory_order_acquire));
  ASSERT_OK(vm->view().Store<uint8_t>(GuestAddress(kKernel), byte ^ 1,
                                      std::memory_order_release));
  ASSERT_OK(vm->Start());
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kNotVerified);
  EXPECT_THAT(std::string(end.status.message()),
              HasSubstr("piece digest mismatch"));
  EXPECT_THAT(end.registers, "");
  EXPECT_THAT(sink_.Take(), HasSubstr("piece digest mismatch"));
}

TEST_P(ConfidentialVmTest, TheShimsPortMeansNothingOnceTheKernelRuns) {
  auto vm = Make(MicroKernel::kStatus);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  EXPECT_EQ(sink_.Take(), "s");
}

// From the start to the shim's verdict only the guest converts.
TEST_P(ConfidentialVmTest, TheHostConvertsNothingWhileTheShimRuns) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  const GuestRange page = Page(kMicroKernelData);
  auto convert = [&](PageState to) {
    return vm->broker()
        ->ConvertForHost({&page, 1}, to, HostConversionReason::kBeforeBoot)
        .status();
  };
  EXPECT_EQ(vm->broker()->phase(), memory::ConversionPhase::kBuilding);
  EXPECT_OK(convert(PageState::kShared));
  EXPECT_OK(convert(PageState::kPrivate));
  // Paused before its first instruction, it is in the middle of its launch.
  vm->Pause();
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->broker()->phase(), memory::ConversionPhase::kLaunching);
  vm->broker()->Resume();  // else it would say Unavailable
  EXPECT_THAT(convert(PageState::kShared),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(vm->broker()->Reconcile(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  vm->Resume();
  sink_.WaitFor(1);
  EXPECT_EQ(vm->broker()->phase(), memory::ConversionPhase::kRunning);
  EXPECT_TRUE(AllPrivate(*vm));
  vm->Stop();
  vm->Wait();
  EXPECT_EQ(vm->broker()->phase(), memory::ConversionPhase::kStopped);
  EXPECT_OK(vm->broker()->Reconcile());
}

TEST_P(ConfidentialVmTest, NothingIsBackedTwiceAtTheEnd) {
  auto vm = Make(MicroKernel::kOff);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  ASSERT_OK_AND_ASSIGN(auto report, vm->broker()->Reconcile());
  EXPECT_EQ(report.double_backed_bytes(), 0u);
  EXPECT_FALSE(report.counted_only);
}

// --- ends ---

// Once for each run that asked for it and came as far as the kernel.
TEST_P(ConfidentialVmTest, ADenialThatNeverBeganIsSaidAtTheEnd) {
  config_.confidential.policy.implicit = memory::ImplicitPolicy::kDeny;
  auto vm = Make(MicroKernel::kOff);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  vm->Wait();
  EXPECT_THAT(warnings_.Take(), ElementsAre(HasSubstr("; 0 were allowed")));
  ASSERT_OK(vm->Relaunch());
  vm->Wait();
  EXPECT_THAT(warnings_.Take(), ElementsAre(HasSubstr("; 0 were allowed")));

  config_.confidential.policy.implicit = memory::ImplicitPolicy::kCount;
  vm = Make(MicroKernel::kOff);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  vm->Wait();
  EXPECT_THAT(warnings_.Take(), IsEmpty());
}

TEST_P(ConfidentialVmTest, ADenialIsNotMissedAfterARefusedLaunch) {
  config_.confidential.policy.implicit = memory::ImplicitPolicy::kDeny;
  auto vm = Make(MicroKernel::kOff);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->view().Store<uint8_t>(GuestAddress(kKernel), 0xcc,
                                      std::memory_order_release));
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kNotVerified);
  EXPECT_THAT(warnings_.Take(), IsEmpty());
}

TEST_P(BackendVmTest, OnlyOrdinaryGuestsShowTheirRegisters) {
  auto vm = Make(MicroKernel::kCrash);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kTripleFault);
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("vCPU 0"));
  EXPECT_EQ(end.registers.empty(), GetParam() != BackendKind::kOff);
}

TEST_P(BackendVmTest, WhereKvmCannotGoOnTheRunEndsInAnInternalError) {
  auto vm = Make(MicroKernel::kLost);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kInternalError);
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("RIP 0xd0000000"));
  EXPECT_EQ(end.registers.empty(), GetParam() != BackendKind::kOff);
}

TEST_P(BackendVmTest, WhatTheBrokerCannotUndoEndsTheRun) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  MicroVmPeer::OnFatal(*vm, absl::InternalError("undoing failed too"));
  vm->Stop();  // too late
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kConversion);
  EXPECT_EQ(end.status.message(), "undoing failed too");
}

// --- limits on conversions ---

class LimitTest : public BackendVmTest {
 protected:
  void SetUp() override {
    if (!InLab()) GTEST_SKIP() << "VMMCALL is tried in the lab only";
    BackendVmTest::SetUp();
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, LimitTest,
                         ::testing::Values(BackendKind::kEmulated,
                                           BackendKind::kSwProtected),
                         KindName);

// The launch image is staged in shared memory, whatever the limit; the guest's
// own request is what it applies to.
TEST_P(LimitTest, TheSharedLimitIsTheGuests) {
  for (uint64_t limit : {uint64_t{0}, kPageSize}) {
    config_.confidential.policy.shared_limit = limit;
    auto vm = Make(MicroKernel::kConvert);
    ASSERT_NE(vm, nullptr);
    ASSERT_OK(vm->Start());
    if (limit == 0) {
      EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
      EXPECT_EQ(sink_.Take(), "P");
      EXPECT_EQ(vm->broker()->stats().refused, 1u);
    } else {
      EXPECT_THAT(sink_.WaitFor(3), Not(HasSubstr("P")));
    }
  }
}

TEST_P(LimitTest, TheRateDelaysAndRefusesNothing) {
  config_.confidential.policy.per_second = 200;
  config_.confidential.policy.burst = 1;
  auto vm = Make(MicroKernel::kConvert);
  ASSERT_NE(vm, nullptr);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK(vm->Start());
  EXPECT_EQ(sink_.WaitFor(20).substr(0, 20), std::string(20, '.'));
  // 40 requests, 5 ms apart.
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(150));
  EXPECT_GE(vm->broker()->stats().delayed, 30u);
  EXPECT_EQ(vm->broker()->stats().refused, 0u);
  // A vCPU that waits for its turn is no obstacle.
  vm->Pause();
  vm->Resume();
  vm->Stop();
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kStopped);
}

// --- policy, where accesses trap ---

class TrappingVmTest : public MicroVmTest {
 protected:
  void SetUp() override {
    MicroVmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string why_not = WhyNot(BackendKind::kSwProtected);
    if (!why_not.empty()) GTEST_SKIP() << "this host lacks " << why_not;
    Use(BackendKind::kSwProtected);
  }
};

TEST_F(TrappingVmTest, ADeniedConversionNamesEverythingButTheRegisters) {
  config_.confidential.policy.implicit = memory::ImplicitPolicy::kDeny;
  auto vm = Make(MicroKernel::kTouch);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  VmEnd end = vm->Wait();
  EXPECT_EQ(end.kind, VmEnd::Kind::kConversion);
  EXPECT_THAT(std::string(end.status.message()),
              AllOf(HasSubstr("0x1a00000"), HasSubstr("private"),
                    HasSubstr("denied by policy"), HasSubstr(", slot "),
                    HasSubstr("RIP 0x10")));
  EXPECT_EQ(end.registers, "");
  EXPECT_EQ(sink_.Take(), "i") << "allowed before the set point only";
  EXPECT_EQ(vm->states().Get(GuestAddress(kMicroKernelData)),
            PageState::kShared);
  EXPECT_EQ(vm->states().Get(GuestAddress(kMicroKernelData + kMicroKernelStep)),
            PageState::kPrivate);
  EXPECT_THAT(warnings_.Take(), IsEmpty());
}

TEST_F(TrappingVmTest, ADenialThatNeverBeganIsSaidWithWhatItLetPass) {
  config_.confidential.policy.implicit = memory::ImplicitPolicy::kDeny;
  auto vm = Make(MicroKernel::kTouchUnmarked);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  EXPECT_EQ(sink_.Take(), "ia");
  EXPECT_THAT(warnings_.Take(),
              ElementsAre(AllOf(HasSubstr("never denied"), HasSubstr("0x3f0"),
                                HasSubstr("; 2 were"))));
}

TEST_F(TrappingVmTest, AllowedImplicitConversionsGoOn) {
  config_.confidential.policy.implicit = memory::ImplicitPolicy::kAllow;
  auto vm = Make(MicroKernel::kTouch);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kPowerOff);
  EXPECT_EQ(sink_.Take(), "ia");
  EXPECT_EQ(vm->broker()->stats().to_shared[1].requests, 2u);
  EXPECT_THAT(warnings_.Take(), IsEmpty());
}

TEST_F(TrappingVmTest, ExchangeWindowsBelongToTheHost) {
  const GuestRange window =
      *GuestRange::Create(GuestAddress(64 << 20), 1 << 20);
  config_.confidential.exchange_windows = {window};
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  EXPECT_TRUE(vm->states().IsWholly(window, PageState::kPrivate));
  EXPECT_THAT(
      vm->broker()->ConvertForHost({&window, 1}, PageState::kShared,
                                   HostConversionReason::kExchangeWindow),
      IsOkAndHolds(window.size()));
  EXPECT_OK(vm->view().Acquire(window));
  const GuestRange page = Page(kMicroKernelData);
  EXPECT_THAT(
      vm->broker()->ConvertForHost({&page, 1}, PageState::kShared,
                                   HostConversionReason::kExchangeWindow),
      StatusIs(absl::StatusCode::kFailedPrecondition));
}

// --- relaunching ---

TEST_P(BackendVmTest, RelaunchedGuestsFindNothingOfTheirPast) {
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  const auto digest = vm->digest();
  ASSERT_OK(vm->Start());
  for (int launch = 0; launch < 3; ++launch) {
    EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
    EXPECT_EQ(sink_.Take(), "ff") << "launch " << launch;
    ASSERT_OK(vm->Relaunch());
    EXPECT_EQ(vm->digest(), digest);
    EXPECT_EQ(vm->cpus(), 1u);
  }
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
}

TEST_P(BackendVmTest, RelaunchedGuestsHaveTheirDevicesAgain) {
  DiskConfig disk;
  disk.path = absl::StrCat(::testing::TempDir(), "/disk");
  std::ofstream(disk.path) << std::string(8192, 'd');
  config_.devices.disks.push_back(disk);
  config_.devices.rng.emplace();
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  // Gone with their VM: nobody has the disk's file open while it is missing.
  ASSERT_EQ(std::remove(disk.path.c_str()), 0);
  EXPECT_THAT(vm->Relaunch(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(disk.path)));
  std::ofstream(disk.path) << std::string(8192, 'e');
  sink_.Take();
  ASSERT_OK(vm->Relaunch());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  EXPECT_EQ(sink_.Take(), "ff");
}

// While the guest runs, paused, at its end, and between two launches.
TEST_P(BackendVmTest, DevicesChangeWhateverTheGuestDoes) {
  DiskConfig disk;
  disk.path = absl::StrCat(::testing::TempDir(), "/disk");
  disk.id = "root";
  const std::string larger = disk.path + "-larger";
  std::ofstream(disk.path) << std::string(8192, 'd');
  const std::string third = disk.path + "-third";
  std::ofstream(larger) << std::string(16384, 'l');
  std::ofstream(third) << std::string(4096, 't');
  config_.devices.disks.push_back(disk);
  config_.devices.balloon.emplace();
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  auto use = [&](const std::string& path) {
    return vm->ChangeDevices([&](DeviceControl& devices) {
      return devices.UpdateDisk("root", {.path = path, .limit = {}});
    });
  };
  auto disk_bytes = [&] {
    for (const DeviceCounters& device : vm->device_counters()) {
      if (device.name != "block_root") continue;
      for (const auto& [name, value] : device.sizes) {
        if (name == "disk_bytes") return value;
      }
    }
    return uint64_t{0};
  };
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  EXPECT_EQ(disk_bytes(), 8192u);
  EXPECT_OK(use(larger));
  EXPECT_EQ(disk_bytes(), 16384u);
  vm->Pause();
  EXPECT_OK(use(third));
  EXPECT_EQ(disk_bytes(), 4096u);
  vm->Resume();
  EXPECT_OK(vm->ChangeDevices([](DeviceControl& devices) {
    return devices.SetBalloonTarget(1 << 20);
  }));
  vm->Stop();
  vm->Wait();
  std::ofstream(third, std::ios::app) << std::string(4096, 't');
  EXPECT_OK(use(third));
  EXPECT_EQ(disk_bytes(), 8192u);
  // Without the file there is no launch, and there are no devices.
  ASSERT_EQ(std::remove(disk.path.c_str()), 0);
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(use(larger), StatusIs(absl::StatusCode::kFailedPrecondition,
                                    HasSubstr("between two launches")));
  EXPECT_EQ(vm->device_counters().size(), 0u);
  // A new launch has what was configured, not what was changed.
  std::ofstream(disk.path) << std::string(8192, 'e');
  ASSERT_OK(vm->Relaunch());
  EXPECT_EQ(disk_bytes(), 8192u);
}

// Changes and looks from two threads while the devices come and go.
TEST_P(BackendVmTest, ChangesDoNotCollideWithRelaunches) {
  DiskConfig disk;
  disk.path = absl::StrCat(::testing::TempDir(), "/disk");
  std::ofstream(disk.path) << std::string(8192, 'd');
  config_.devices.disks.push_back(disk);
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  std::atomic<bool> done{false};
  std::atomic<int> changed{0}, seen{0};
  std::thread changer([&] {
    while (!done) {
      absl::Status status = vm->ChangeDevices([&](DeviceControl& devices) {
        return devices.UpdateDisk("disk0", {.path = disk.path, .limit = {}});
      });
      if (status.ok()) ++changed;
      EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
    }
  });
  std::thread watcher([&] {
    while (!done) seen += static_cast<int>(vm->device_counters().size());
  });
  for (int launch = 0; launch < 2; ++launch) {
    EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
    const int before = changed;
    EXPECT_OK(vm->Relaunch());
    while (changed == before && !HasFailure()) std::this_thread::yield();
  }
  done = true;
  changer.join();
  watcher.join();
  EXPECT_GT(seen, 0);
}

// Whoever waits gets the end of a run, and does not get in the way of another.
TEST_P(BackendVmTest, WaitsDoNotCollideWithRelaunches) {
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  const auto digest = vm->digest();
  ASSERT_OK(vm->Start());
  std::atomic<bool> done{false};
  std::atomic<int> waits{0};
  std::vector<std::thread> waiters;
  for (int i = 0; i < 2; ++i) {
    waiters.emplace_back([&] {
      while (!done) {
        EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
        EXPECT_THAT(vm->backend(),
                    AnyOf(GetParam(), BackendKind::kOff));  // between two
        EXPECT_EQ(vm->digest(), digest);
        ++waits;
        std::this_thread::yield();
      }
    });
  }
  for (int launch = 0; launch < 3 && !HasFailure(); ++launch) {
    EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
    const int before = waits;
    while (waits == before) std::this_thread::yield();
    EXPECT_OK(vm->Relaunch());
  }
  done = true;
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  if (vm->broker() != nullptr) {
    EXPECT_EQ(vm->broker()->phase(), memory::ConversionPhase::kStopped);
  }
}

TEST_P(ConfidentialVmTest, AVmThatDoesNotStartHasEnded) {
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  vm->broker()->GuestStopped();
  EXPECT_THAT(vm->Start(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                    HasSubstr("launching")));
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kStopped);
  ASSERT_OK(vm->Relaunch());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
}

TEST_P(BackendVmTest, OnlyAnEndedVmRelaunches) {
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kFailedPrecondition));
  vm->Pause();
  vm->Stop();
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("paused")));
  vm->Resume();
  vm->Wait();
  sink_.Take();
  ASSERT_OK(vm->Relaunch());
  sink_.WaitFor(1);
  vm->Stop();
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kStopped);
}

TEST_P(BackendVmTest, ARelaunchThatFailsCanBeRepeated) {
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  ASSERT_EQ(std::remove(config_.kernel.path.c_str()), 0);
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kNotFound,
                                       HasSubstr(config_.kernel.path)));
  EXPECT_FALSE(vm->PressPowerButton());
  EXPECT_EQ(vm->ConsoleInput({}), 0u);
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  ASSERT_OK(WriteMicroKernel(MicroKernel::kFresh, config_.kernel.path));
  sink_.Take();
  ASSERT_OK(vm->Relaunch());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  EXPECT_EQ(sink_.Take(), "ff");
}

TEST_P(ConfidentialVmTest, RelaunchRefusesAnotherKernel) {
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  ASSERT_OK(WriteMicroKernel(MicroKernel::kPrint, config_.kernel.path));
  EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("launch digest")));
  EXPECT_EQ(sink_.Take(), "ff");
}

TEST_P(ConfidentialVmTest, ARefusedLaunchCanBeRelaunched) {
  auto vm = Make(MicroKernel::kFresh);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->view().Store<uint8_t>(GuestAddress(kKernel), 0xcc,
                                      std::memory_order_release));
  ASSERT_OK(vm->Start());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kNotVerified);
  sink_.Take();
  ASSERT_OK(vm->Relaunch());
  EXPECT_EQ(vm->Wait().kind, VmEnd::Kind::kReset);
  EXPECT_EQ(sink_.Take(), "ff");
}

TEST_P(ConfidentialVmTest, RelaunchWaitsForLeases) {
  const GuestRange window =
      *GuestRange::Create(GuestAddress(64 << 20), 1 << 20);
  config_.confidential.exchange_windows = {window};
  auto vm = Make(MicroKernel::kPrint);
  ASSERT_NE(vm, nullptr);
  ASSERT_OK(vm->Start());
  sink_.WaitFor(1);
  ASSERT_OK(vm->broker()->ConvertForHost(
      {&window, 1}, PageState::kShared, HostConversionReason::kExchangeWindow));
  {
    auto lease = vm->view().Acquire(window);
    ASSERT_OK(lease);
    vm->Stop();
    EXPECT_THAT(vm->Relaunch(), StatusIs(absl::StatusCode::kUnavailable));
  }
  ASSERT_OK(vm->Relaunch());
  EXPECT_TRUE(vm->states().IsWholly(window, PageState::kPrivate));
}

}  // namespace
}  // namespace cloister::vmm
