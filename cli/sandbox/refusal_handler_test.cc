// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/refusal_handler.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

#include "cloister/base/status_matchers.h"
#include "cloister/cli/exit_code.h"
#include "cloister/vmm/sandbox/seccomp_filter.h"
#include "cloister/vmm/sandbox/seccomp_rules.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

// Each in a process of its own, which ends.

TEST(RefusalHandlerDeathTest, ASignalOfAnotherOriginHasItsUsualEffect) {
  EXPECT_EXIT(
      {
        if (!InstallRefusalHandler().ok()) ::_exit(1);
        ::raise(SIGSYS);
        ::_exit(2);
      },
      ::testing::KilledBySignal(SIGSYS), "");
}

// A filter of the project's, and a call that none of them allows.
[[noreturn]] void CallWhatIsRefused(vmm::ThreadKind kind) {
  auto filter = vmm::SeccompFilter::Build(kind, vmm::SeccompRules({}));
  if (!filter.ok() || !InstallRefusalHandler().ok() ||
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      !filter->Install().ok()) {
    ::_exit(1);
  }
  ::syscall(SYS_ptrace, 0x11, 0x22, 0x33);
  ::_exit(2);
}

TEST(RefusalHandlerDeathTest, ARefusalNamesCallThreadAndArguments) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's runtime makes calls of its own";
#endif
  EXPECT_EXIT(CallWhatIsRefused(vmm::ThreadKind::kVcpu),
              ::testing::ExitedWithCode(kExitSeccomp),
              "cloister: error: seccomp: a thread of kind vcpu may not call "
              "ptrace \\(101\\), arguments 0x11 0x22 0x33; see "
              "docs/sandbox.md \\(--no-seccomp allows it\\)");
  EXPECT_EXIT(CallWhatIsRefused(vmm::ThreadKind::kMain),
              ::testing::ExitedWithCode(kExitSeccomp), "kind main may not");
}

TEST(RefusalTimeTest, IsWhatTheCLibrarySays) {
  // Leap days, ends of centuries, and steps that are no whole days.
  for (uint64_t seconds = 0; seconds < uint64_t{253402300800};
       seconds += 2629743 + seconds / 512) {
    const std::time_t time = static_cast<std::time_t>(seconds);
    std::tm parts = {};
    ASSERT_NE(::gmtime_r(&time, &parts), nullptr);
    char text[40];
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S.001234Z", &parts);
    EXPECT_EQ(RefusalTime(seconds * 1000000 + 1234), text);
  }
  EXPECT_EQ(RefusalTime(951782400ull * 1000000), "2000-02-29T00:00:00.000000Z");
}

}  // namespace
}  // namespace cloister::cli
