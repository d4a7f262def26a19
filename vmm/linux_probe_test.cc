// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/linux_probe.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/fake_kvm.h"
#include "cloister/kvm/requests.h"
#include "cloister/kvm/system.h"
#include "cloister/vcpu/kick_signal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::cloister::base::IsOk;
using ::cloister::base::StatusIs;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A verdict that comes this much later than it may was not enforced, however
// busy the host is.
constexpr std::chrono::seconds kPatience(60);

// ---- A scripted KVM: the guest's reports are what the test says ----

class ScriptedProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
    // A guest that says nothing more runs on until it is kicked.
    fake_->SetBlockWhenIdle(true);
  }

  static kvm::IoExit Report() {
    kvm::IoExit out;
    out.direction = kvm::IoExit::Direction::kOut;
    out.port = 0xf0;
    out.width = 1;
    out.count = 1;
    return out;
  }
  void GuestReports(std::vector<uint8_t> values) {
    for (uint8_t value : values) fake_->QueueExit(Report(), {value});
  }

  absl::Status Probe() {
    auto system = kvm::System::Open(*fake_);
    EXPECT_OK(system);
    const auto start = steady_clock::now();
    absl::Status status = ProbeLinux(*system, options_);
    took_ = steady_clock::now() - start;
    return status;
  }

  void ExpectVerdict(const std::string& text) {
    EXPECT_THAT(Probe(), StatusIs(absl::StatusCode::kUnavailable, text));
  }

  // Never destroyed: a probe may leave a thread in it.
  kvm::FakeKvm* const fake_ = NewFake();
  LinuxProbeOptions options_{.kick_signal = SIGRTMIN};
  steady_clock::duration took_{};

 private:
  static kvm::FakeKvm* NewFake() {
    static std::vector<kvm::FakeKvm*>& all = *new std::vector<kvm::FakeKvm*>;
    return all.emplace_back(new kvm::FakeKvm);
  }
};

TEST_F(ScriptedProbeTest, AllReportsInTimeMeanLinuxRuns) {
  GuestReports({1, 2, 3, 4});
  EXPECT_OK(Probe());
  EXPECT_LT(took_, kPatience);
}

TEST_F(ScriptedProbeTest, AGuestThatNeverAnswersIsGivenUpAtTheLimit) {
  ExpectVerdict(
      "this KVM did not deliver #UD to a test guest, so Linux cannot run: "
      "nothing within 200 ms");
  EXPECT_GE(took_, milliseconds(200));
  EXPECT_LT(took_, kPatience);
}

TEST_F(ScriptedProbeTest, EveryMissingStepIsNamed) {
  GuestReports({1});
  ExpectVerdict(
      "this KVM did not deliver #PF to a test guest, so Linux cannot run: "
      "nothing within 200 ms");
  GuestReports({1, 2});
  ExpectVerdict(
      "this KVM did not deliver #BP to a test guest, so Linux cannot run: "
      "nothing within 200 ms");
  GuestReports({1, 2, 3});
  ExpectVerdict(
      "a test guest did not finish a million turns of a loop within 200 ms: "
      "this KVM interprets guest code, too slowly for Linux to boot");
}

TEST_F(ScriptedProbeTest, ReportsOutOfTurnAreNoReports) {
  GuestReports({2});
  ExpectVerdict(
      "this KVM did not deliver #UD to a test guest, so Linux cannot run: "
      "something else came first");
  GuestReports({1, 2, 4});
  ExpectVerdict(
      "this KVM did not deliver #BP to a test guest, so Linux cannot run: "
      "something else came first");
}

TEST_F(ScriptedProbeTest, AGuestThatEndsSaysHow) {
  fake_->QueueExit(kvm::ShutdownExit());
  EXPECT_THAT(Probe(),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("#UD"), HasSubstr("triple fault"))));
  GuestReports({1});
  fake_->QueueExit(kvm::HaltExit());
  ExpectVerdict(
      "this KVM did not deliver #PF to a test guest, so Linux cannot run: the "
      "guest went on without it");
}

TEST_F(ScriptedProbeTest, AReportAfterTheLimitIsNone) {
  GuestReports({1, 2, 3});
  const auto start = steady_clock::now();
  fake_->QueueSlowExit(
      [&] {
        // The limit began before the guest did.
        const auto over = steady_clock::now() + kLinuxProbeLimit;
        while (steady_clock::now() < over) std::this_thread::yield();
      },
      Report(), {4});
  ExpectVerdict(
      "a test guest did not finish a million turns of a loop within 200 ms: "
      "this KVM interprets guest code, too slowly for Linux to boot");
  EXPECT_GE(steady_clock::now() - start, kLinuxProbeLimit);
}

TEST_F(ScriptedProbeTest, AKvmThatNeverReturnsDoesNotHoldTheProbeUp) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers report the thread that is left behind";
#endif
  // Outlives the test as the thread in KVM_RUN does.
  auto released = std::make_shared<std::promise<void>>();
  std::shared_future<void> release = released->get_future().share();
  auto entered = std::make_shared<std::atomic<bool>>(false);
  fake_->QueueSlowExit(
      [release, entered] {
        *entered = true;
        release.wait();
      },
      kvm::HaltExit());
  options_.limit = milliseconds(1);
  options_.stop_limit = milliseconds(50);
  // On a busy host its time may be over before the guest has begun.
  absl::Status verdict = Probe();
  while (!*entered) verdict = Probe();
  EXPECT_THAT(verdict,
              StatusIs(absl::StatusCode::kUnavailable,
                       "KVM_RUN did not return from a test guest within 50 ms "
                       "of a signal, so Linux cannot run on this KVM"));
  released->set_value();
}

TEST_F(ScriptedProbeTest, RefusalsOfKvmAreTheVerdict) {
  fake_->QueueErrno(kvm::Requests::kCreateVm, ENOMEM);
  EXPECT_THAT(Probe(), Not(IsOk()));
  fake_->QueueErrno(kvm::Requests::kSetCpuid, EINVAL);
  EXPECT_THAT(Probe(), Not(IsOk()));
  const std::vector<uint8_t> much(257, 0x90);
  options_.guest_code = much;
  EXPECT_THAT(Probe(), StatusIs(absl::StatusCode::kInvalidArgument));
}

// ---- This host ----

class HostProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto system = kvm::System::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    system_.emplace(*std::move(system));
    ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  }
  std::optional<kvm::System> system_;
};

// The verdict depends on the host; that there is one, in time and with a
// reason, does not.
TEST_F(HostProbeTest, ThereIsAVerdictInTime) {
  const auto start = steady_clock::now();
  absl::Status status = ProbeLinux(*system_, {.kick_signal = SIGRTMIN});
  EXPECT_LT(steady_clock::now() - start, kPatience);
  if (status.ok()) return;
  EXPECT_THAT(std::string(status.message()),
              AnyOf(HasSubstr("#UD"), HasSubstr("#PF"), HasSubstr("#BP"),
                    HasSubstr("interprets guest code")));
}

TEST_F(HostProbeTest, AGuestThatNeverAnswersIsGivenUpAtTheLimit) {
  const uint8_t spin[] = {0xeb, 0xfe};  // jmp to itself
  const auto start = steady_clock::now();
  EXPECT_THAT(
      ProbeLinux(*system_, {.kick_signal = SIGRTMIN, .guest_code = spin}),
      StatusIs(absl::StatusCode::kUnavailable,
               "this KVM did not deliver #UD to a test guest, so Linux cannot "
               "run: nothing within 200 ms"));
  EXPECT_GE(steady_clock::now() - start, milliseconds(200));
  EXPECT_LT(steady_clock::now() - start, kPatience);
}

TEST_F(HostProbeTest, AGuestThatHaltsInsteadIsNotWaitedFor) {
  const uint8_t halt[] = {0xf4};
  EXPECT_THAT(
      ProbeLinux(*system_, {.kick_signal = SIGRTMIN,
                            .limit = std::chrono::minutes(10),
                            .guest_code = halt}),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("went on without")));
}

}  // namespace
}  // namespace cloister::vmm
