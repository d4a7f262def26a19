// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/signal_set.h"

#include <signal.h>
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
    ::pthread_sigmask(SIG_SETMASK, nullptr, &before_);
    ASSERT_OK_AND_ASSIGN(loop_, base::EventLoop::Create());
  }
  void TearDown() override {
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  std::unique_ptr<base::EventLoop> loop_;
  sigset_t before_;
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

// A process told to end in two ways ends in the first.
TEST_F(SignalSetTest, WhatComesTooLateHasNoEffect) {
  {
    ASSERT_OK_AND_ASSIGN(std::unique_ptr<SignalSet> set,
                         SignalSet::Create({SIGTERM, SIGPWR}));
    EXPECT_TRUE(Blocked(SIGTERM));
    EXPECT_FALSE(Blocked(SIGINT));
    ASSERT_OK(set->Register(*loop_, [&](int) { loop_->Stop(); }));
    ::kill(::getpid(), SIGTERM);
    ::kill(::getpid(), SIGPWR);
    ASSERT_OK(loop_->Run());
  }
  EXPECT_TRUE(Blocked(SIGTERM));
  EXPECT_TRUE(Blocked(SIGPWR));
  // Pending for ever: nothing of it is left for the next test.
  const timespec now = {};
  sigset_t late;
  ::sigemptyset(&late);
  ::sigaddset(&late, SIGPWR);
  EXPECT_EQ(::sigtimedwait(&late, nullptr, &now), SIGPWR);
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
