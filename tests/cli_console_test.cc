// SPDX-License-Identifier: Apache-2.0
//
// `cloister run` as a user at a terminal has it: the real program on a
// pseudo-terminal, with a guest that echoes. On every way out the terminal has
// the modes it had before, and the exit code says which way it was.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/pty_session.h"
#include "cloister/tests/echo_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using cli::PtySession;
using Command = cli::PtySession::Command;

constexpr char kBanner[] = "echo here";

class ConsoleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    const std::string kernel = absl::StrCat(::testing::TempDir(), "/echo");
    const std::vector<uint8_t> elf = MakeEchoKernel(kBanner);
    std::ofstream(kernel, std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()), elf.size());
    argv_ = {"cli/cloister", "run", "--kernel",       kernel,
             "--memory",     "32M", "--confidential", "off"};
    ASSERT_OK_AND_ASSIGN(pty_, PtySession::Create());
  }

  // Starts the program; the guest has spoken and the terminal is raw.
  void Start() {
    ASSERT_OK(pty_->Start(argv_));
    ASSERT_OK(pty_->Expect(kBanner));
    EXPECT_FALSE(pty_->restored());
  }

  void ExpectExit(int code) {
    ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
    ASSERT_TRUE(WIFEXITED(status)) << "wait status " << status;
    EXPECT_EQ(WEXITSTATUS(status), code);
    EXPECT_TRUE(pty_->restored());
  }

  std::vector<std::string> argv_;
  std::unique_ptr<PtySession> pty_;
};

TEST_F(ConsoleTest, CtrlAXLeaves) {
  Start();
  ASSERT_OK(pty_->Type("\1x"));
  ExpectExit(0);
}

TEST_F(ConsoleTest, ControlKeysGoToTheGuest) {
  Start();
  // Ctrl-C, Ctrl-Z, Ctrl-\, Ctrl-D, Ctrl-S, Ctrl-Q.
  for (const char* key : {"\3", "\x1a", "\x1c", "\4", "\x13", "\x11"}) {
    ASSERT_OK(pty_->Type(key));
    ASSERT_OK(pty_->Expect(std::string(1, static_cast<char>(*key | 0x40))));
  }
  ASSERT_OK(pty_->Type("\1x"));
  ExpectExit(0);
}

TEST_F(ConsoleTest, SignalsEndItWithTheirNumber) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    SCOPED_TRACE(signal);
    Start();
    pty_->Signal(signal);
    ExpectExit(128 + signal);
  }
}

TEST_F(ConsoleTest, CrashesRestoreTheTerminal) {
  for (int signal : {SIGSEGV, SIGABRT}) {
    SCOPED_TRACE(signal);
    Start();
    pty_->Signal(signal);
    ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << status;
    EXPECT_TRUE(pty_->restored());
  }
}

TEST_F(ConsoleTest, BadInputLeavesTheTerminalAlone) {
  argv_[3] = "/no/such/kernel";
  ASSERT_OK(pty_->Start(argv_));
  ASSERT_OK(pty_->Expect("/no/such/kernel"));
  ExpectExit(1);
}

TEST_F(ConsoleTest, HangUpEndsIt) {
  Start();
  pty_->HangUp();
  ASSERT_OK_AND_ASSIGN(const int status, pty_->Wait());
  ASSERT_TRUE(WIFEXITED(status)) << "wait status " << status;
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGHUP);
}

TEST_F(ConsoleTest, StopsAndContinuesAsAJob) {
  ASSERT_OK(pty_->StartJob(argv_));
  ASSERT_OK(pty_->Expect(kBanner));
  EXPECT_TRUE(pty_->restored()) << "a background job changed the terminal";
  ASSERT_OK(pty_->Tell(Command::kForeground));
  pty_->Signal(SIGCONT);
  // The guest answers "a" to "!"; a terminal that is not raw would echo "!".
  ASSERT_OK(pty_->Type("!"));
  ASSERT_OK(pty_->Expect("a"));
  EXPECT_FALSE(pty_->restored());
  pty_->Signal(SIGTSTP);
  ASSERT_OK(pty_->Tell(Command::kAwaitStop));
  EXPECT_TRUE(pty_->restored());
  pty_->Signal(SIGCONT);
  ASSERT_OK(pty_->Type("!"));
  ASSERT_OK(pty_->Expect("a"));
  ASSERT_OK(pty_->Type("\3"));
  ASSERT_OK(pty_->Expect("C"));
  pty_->Signal(SIGTERM);
  ASSERT_OK(pty_->Tell(Command::kAwaitEnd));
  ExpectExit(128 + SIGTERM);
}

// Nothing has to be restored there, so nothing may hold SIGTSTP up.
TEST_F(ConsoleTest, StopsWithoutAConsole) {
  argv_.insert(argv_.end(), {"--console", "none", "--log-level", "debug"});
  // In a group of its own, which is not an orphan: it does stop.
  ASSERT_OK_AND_ASSIGN(auto process, GuestProcess::Start(argv_, [] {
                         ::setpgid(0, 0);
                         ::signal(SIGTSTP, SIG_DFL);
                       }));
  ASSERT_OK(process->Expect("the guest runs"));
  process->Signal(SIGTSTP);
  int status = 0;
  ASSERT_EQ(::waitpid(process->pid(), &status, WUNTRACED), process->pid());
  ASSERT_TRUE(WIFSTOPPED(status)) << "wait status " << status;
  EXPECT_EQ(WSTOPSIG(status), SIGTSTP);
  process->Signal(SIGCONT);
  process->Signal(SIGTERM);
  ASSERT_OK_AND_ASSIGN(const int code, process->Wait());
  EXPECT_EQ(code, 128 + SIGTERM);
}

}  // namespace
}  // namespace cloister::tests
