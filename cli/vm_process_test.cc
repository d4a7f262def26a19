// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/vm_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "cloister/base/event_loop.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/crash_cleanup.h"
#include "cloister/cli/exit_code.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using Kind = vmm::VmEnd::Kind;

TEST(VmProcessTest, EveryEndHasItsExitCode) {
  EXPECT_EQ(ExitCodeFor(Kind::kPowerOff), kExitOk);
  EXPECT_EQ(ExitCodeFor(Kind::kReset), kExitOk);
  EXPECT_EQ(ExitCodeFor(Kind::kStopped), kExitOk);
  EXPECT_EQ(ExitCodeFor(Kind::kTripleFault), kExitTripleFault);
  EXPECT_EQ(ExitCodeFor(Kind::kNotVerified), kExitNotVerified);
  EXPECT_EQ(ExitCodeFor(Kind::kConversion), kExitConversion);
  EXPECT_EQ(ExitCodeFor(Kind::kInternalError), kExitInternalError);
  EXPECT_EQ(ExitCodeFor(static_cast<Kind>(99)), kExitInternalError);
}

TEST(VmProcessTest, TheKickSignalIsOneThatNobodyElseSends) {
  EXPECT_GE(KickSignal(), SIGRTMIN);
  EXPECT_LE(KickSignal(), SIGRTMAX);
}

// In a process of its own: there is no way back.
TEST(VmProcessDeathTest, ForbiddenDumpsStayForbidden) {
  EXPECT_EXIT(
      {
        rlimit cores = {};
        const bool good = ForbidDumps().ok() &&
                          ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 &&
                          ::getrlimit(RLIMIT_CORE, &cores) == 0 &&
                          cores.rlim_cur == 0 && cores.rlim_max == 0;
        ::_exit(good ? 42 : 1);
      },
      ::testing::ExitedWithCode(42), "");
}

TEST(VmProcessTest, AsManyFilesAsTheHardLimitAllows) {
  rlimit before = {}, after = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {before.rlim_max / 2, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_OK(RaiseFileLimit());
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  EXPECT_EQ(after.rlim_max, before.rlim_max);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(VmProcessTest, EverySignalThatWouldEndTheProcessEndsTheVm) {
  const std::vector<int> ending = EndingSignals();
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    // The C library's own, and those with other uses: crashes, stops, what is
    // ignored by default or by main().
    constexpr int kOthers[] = {SIGKILL,  SIGSTOP, SIGSEGV, SIGBUS,  SIGILL,
                               SIGFPE,   SIGTRAP, SIGABRT, SIGSYS,  SIGTSTP,
                               SIGTTIN,  SIGTTOU, SIGCONT, SIGCHLD, SIGURG,
                               SIGWINCH, SIGPIPE, SIGXFSZ, SIGPWR};
    const bool other =
        std::count(std::begin(kOthers), std::end(kOthers), signal) > 0 ||
        (signal >= 32 && signal <= CleanUpSignal());
    EXPECT_EQ(std::count(ending.begin(), ending.end(), signal), other ? 0 : 1)
        << signal;
  }
}

TEST(ConsoleSinkTest, WithoutATerminalOutputIsDropped) {
  ConsoleSink sink;
  const uint8_t bytes[] = {'a', 'b', 'c'};
  EXPECT_EQ(sink.Write(bytes), 3u);
}

TEST(ConsoleSinkTest, OutputReachesTheTerminalThatIsSet) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  base::UniqueFd reader(fds[0]), writer(fds[1]);
  ASSERT_OK_AND_ASSIGN(auto loop, base::EventLoop::Create());
  Terminal::Options options;
  options.input_fd = -1;
  options.output_fd = writer.get();
  ASSERT_OK_AND_ASSIGN(auto terminal,
                       Terminal::Create(*loop, std::move(options)));
  ConsoleSink sink;
  sink.set_terminal(terminal.get());
  const uint8_t bytes[] = {'a', 'b', 'c'};
  EXPECT_EQ(sink.Write(bytes), 3u);
  sink.set_terminal(nullptr);
  EXPECT_EQ(sink.Write(bytes), 3u);
  terminal.reset();  // Writes out what is left.
  writer.reset();
  char got[16];
  ASSERT_EQ(::read(reader.get(), got, sizeof(got)), 3);
  EXPECT_EQ(std::string(got, 3), "abc");
}

}  // namespace
}  // namespace cloister::cli
