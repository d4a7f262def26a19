// SPDX-License-Identifier: Apache-2.0
//
// Linux in a VM of this process that reboots and is relaunched, in the lab.
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/micro_vm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using confidential::BackendChoice;
using ::testing::HasSubstr;
using ::testing::Not;
using vmm::VmEnd;

class TextSink : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    text_.append(bytes.begin(), bytes.end());
    return bytes.size();
  }
  std::string Take() {
    base::MutexLock lock(&mutex_);
    return std::exchange(text_, "");
  }

 private:
  base::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

class RelaunchTest : public ::testing::TestWithParam<BackendChoice> {};

TEST_P(RelaunchTest, LinuxBootsAgainAfterItsReboot) {
  const char* lab = std::getenv("CLOISTER_IN_LAB");
  if (GetParam() == BackendChoice::kSwProtected && lab != nullptr &&
      std::string(lab) == "unpatched") {
    GTEST_SKIP() << "not applicable: this kernel cannot decode private code";
  }
  if (GetParam() == BackendChoice::kEmulated && !Soak()) {
    GTEST_SKIP() << "not applicable: emulated relaunches in the soak only";
  }
  ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  TextSink sink;
  vmm::VmHooks hooks;
  hooks.console = &sink;
  hooks.kick_signal = SIGRTMIN;
  vmm::VmConfig config;
  config.kernel.path = GuestFile("TINY", "KERNEL");
  config.kernel.initrd_path = GuestFile("TINY", "INITRAMFS");
  config.kernel.command_line =
      "console=ttyS0 panic=-1 quiet loglevel=6 cloister.test=reboot";
  config.cpus.count = 2;
  config.memory.bytes = 128 << 20;
  config.confidential.backend = GetParam();
  ASSERT_OK_AND_ASSIGN(auto vm, vmm::BuildVm(config, hooks));
  const auto digest = vm->digest();
  EXPECT_EQ(digest.has_value(), GetParam() != BackendChoice::kOff);
  ASSERT_OK(vm->Start());
  for (int boot = 0; boot < 2; ++boot) {
    VmEnd end = vm->Wait();
    const std::string text = sink.Take();
    ASSERT_EQ(end.kind, VmEnd::Kind::kReset) << end.status << "\n" << text;
    EXPECT_THAT(text, Not(HasSubstr("BUG"))) << "boot " << boot;
    EXPECT_THAT(text, HasSubstr("reboot: Restarting")) << "boot " << boot;
    EXPECT_EQ(vm->digest(), digest);
    if (vm->broker() != nullptr) {
      EXPECT_GT(vm->broker()->stats().to_shared[0].requests, 0u);
      EXPECT_OK(vm->broker()->Reconcile());
    }
    if (boot == 0) {
      ASSERT_OK(vm->Relaunch());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RelaunchTest,
                         ::testing::Values(BackendChoice::kOff,
                                           BackendChoice::kEmulated,
                                           BackendChoice::kSwProtected),
                         [](const auto& info) {
                           switch (info.param) {
                             case BackendChoice::kOff:
                               return "off";
                             case BackendChoice::kEmulated:
                               return "emulated";
                             default:
                               return "sw_protected";
                           }
                         });

}  // namespace
}  // namespace cloister::tests
