// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/raw_mode.h"

#include <fcntl.h>
#include <pty.h>
#include <termios.h>

#include <csignal>

#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using base::StatusIs;

// The ways out of a process are terminal_test's.
class RawModeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int master, slave;
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    master_.reset(master);
    slave_.reset(slave);
  }
  void TearDown() override { RawMode::Leave(); }
  termios Modes() {
    termios modes = {};
    EXPECT_EQ(::tcgetattr(slave_.get(), &modes), 0);
    return modes;
  }

  base::UniqueFd master_, slave_;
};

TEST_F(RawModeTest, LocalProcessingGoesAndComesBack) {
  const termios before = Modes();
  ASSERT_TRUE(before.c_lflag & ICANON);
  ASSERT_OK(RawMode::Enter(slave_.get()));
  EXPECT_TRUE(RawMode::active());
  termios raw = Modes();
  EXPECT_FALSE(raw.c_lflag & (ICANON | ECHO | ISIG | IEXTEN));
  EXPECT_FALSE(raw.c_iflag & (IXON | ICRNL));
  EXPECT_EQ(raw.c_oflag, before.c_oflag);
  // Again: the modes to restore stay the first ones.
  ASSERT_OK(RawMode::Enter(slave_.get()));
  RawMode::Leave();
  EXPECT_FALSE(RawMode::active());
  EXPECT_EQ(Modes().c_lflag, before.c_lflag);
  EXPECT_EQ(Modes().c_iflag, before.c_iflag);
  EXPECT_EQ(Modes().c_cc[VMIN], before.c_cc[VMIN]);
}

TEST_F(RawModeTest, RefusesWhatIsNoTerminalAndASecondOne) {
  base::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_THAT(RawMode::Enter(null.get()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(RawMode::Enter(-1), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(RawMode::active());
  ASSERT_OK(RawMode::Enter(slave_.get()));
  EXPECT_THAT(RawMode::Enter(null.get()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(RawMode::active());
}

TEST_F(RawModeTest, SignalActionsComeBack) {
  auto handler = [](int) {};
  struct sigaction mine = {}, now = {};
  mine.sa_handler = handler;
  ASSERT_EQ(::sigaction(SIGTERM, &mine, nullptr), 0);
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGINT, SIG_DFL);
  ASSERT_OK(RawMode::Enter(slave_.get()));
  ::sigaction(SIGTERM, nullptr, &now);
  EXPECT_EQ(now.sa_handler, mine.sa_handler) << "handled signals stay so";
  ::sigaction(SIGHUP, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_IGN) << "nohup must go on working";
  ::sigaction(SIGINT, nullptr, &now);
  EXPECT_NE(now.sa_handler, SIG_DFL);
  RawMode::Leave();
  ::sigaction(SIGINT, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

}  // namespace
}  // namespace cloister::cli
