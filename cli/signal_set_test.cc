// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/signal_set.h"

#include <unistd.h>

#include <vector>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

bool Blocked(int signal) {
  sigset_t mask;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return sigismember(&mask, signal) == 1;
}

class SignalSetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(loop_, base::EventLoop::Create());
  }
  std::unique_ptr<base::EventLoop> loop_;
};

TEST_F(SignalSetTest, SignalsBecomeCallsOnTheLoop) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SignalSet> set,
                       SignalSet::Create({SIGINT, SIGTERM}));
  std::vector<int> seen;
  // What arrived before anybody listened is not lost.
  ::kill(::getpid(), SIGTERM);
  ASSERT_OK(set->Register(*loop_, [&](int signal) {
    seen.push_back(signal);
    if (seen.size() == 1) {
      ::kill(::getpid(), SIGINT);
    } else {
      loop_->Stop();
    }
  }));
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(seen, (std::vector<int>{SIGTERM, SIGINT}));
}

TEST_F(SignalSetTest, HandlerMayDestroyTheSet) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SignalSet> set,
                       SignalSet::Create({SIGHUP}));
  ASSERT_OK(set->Register(*loop_, [&](int) {
    set.reset();
    loop_->Stop();
  }));
  ::kill(::getpid(), SIGHUP);
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(set, nullptr);
}

TEST_F(SignalSetTest, MaskIsRestored) {
  ASSERT_FALSE(Blocked(SIGTERM));
  {
    ASSERT_OK_AND_ASSIGN(std::unique_ptr<SignalSet> set,
                         SignalSet::Create({SIGTERM}));
    EXPECT_TRUE(Blocked(SIGTERM));
    EXPECT_FALSE(Blocked(SIGINT));
  }
  EXPECT_FALSE(Blocked(SIGTERM));
}

TEST_F(SignalSetTest, IgnoredSignalsStayIgnored) {
  ::signal(SIGHUP, SIG_IGN);
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SignalSet> set,
                       SignalSet::Create({SIGHUP, SIGTERM}));
  EXPECT_FALSE(Blocked(SIGHUP));
  ::kill(::getpid(), SIGHUP);
  ::kill(::getpid(), SIGTERM);
  int seen = 0;
  ASSERT_OK(set->Register(*loop_, [&](int signal) {
    seen = signal;
    loop_->Stop();
  }));
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(seen, SIGTERM);
  ::signal(SIGHUP, SIG_DFL);
}

}  // namespace
}  // namespace cloister::cli
