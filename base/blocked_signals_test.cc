// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/blocked_signals.h"

#include <pthread.h>

#include <csignal>
#include <thread>

#include "gtest/gtest.h"

namespace cloister::base {
namespace {

bool IsBlocked(int signal) {
  sigset_t set;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &set);
  return ::sigismember(&set, signal) == 1;
}

TEST(BlockedSignalsTest, ThreadsStartedMeanwhileHearOfTheirFaultsAlone) {
  {
    BlockedSignals blocked;
    EXPECT_TRUE(IsBlocked(SIGTERM));
    std::thread([] {
      for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGALRM, SIGRTMIN}) {
        EXPECT_TRUE(IsBlocked(signal)) << signal;
      }
      for (int fault :
           {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
        EXPECT_FALSE(IsBlocked(fault)) << fault;
      }
    }).join();
  }
  EXPECT_FALSE(IsBlocked(SIGTERM));
}

}  // namespace
}  // namespace cloister::base
