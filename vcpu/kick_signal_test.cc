// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/kick_signal.h"

#include <pthread.h>

#include <thread>

#include "cloister/base/blocked_signals.h"
#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

bool IsBlocked(int signal) {
  sigset_t set;
  pthread_sigmask(SIG_SETMASK, nullptr, &set);
  return sigismember(&set, signal) == 1;
}

TEST(KickSignalTest, NeedsAHandler) {
  const int signal = SIGRTMIN + 3;
  EXPECT_THAT(CheckKickHandler(signal),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("has no handler")));
  std::signal(signal, SIG_IGN);
  EXPECT_THAT(CheckKickHandler(signal),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_OK(InstallKickHandler(signal));
  EXPECT_OK(CheckKickHandler(signal));
  EXPECT_EQ(raise(signal), 0);  // And lives on.
  std::signal(signal, SIG_DFL);
}

TEST(KickSignalTest, RefusesWhatIsNoSignal) {
  for (int signal : {0, -1, 1000, SIGKILL}) {
    EXPECT_THAT(InstallKickHandler(signal),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(CheckKickHandler(0),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(KickSignalTest, MasksAreScoped) {
  const int signal = SIGRTMIN + 3;
  ASSERT_FALSE(IsBlocked(SIGTERM));
  {
    base::BlockedSignals blocked;
    EXPECT_TRUE(IsBlocked(SIGTERM));
    EXPECT_TRUE(IsBlocked(signal));
    bool inherited = false;
    std::thread([&inherited] { inherited = IsBlocked(SIGTERM); }).join();
    EXPECT_TRUE(inherited);
    {
      UnblockedSignal unblocked(signal);
      EXPECT_FALSE(IsBlocked(signal));
      EXPECT_TRUE(IsBlocked(SIGTERM));
    }
    EXPECT_TRUE(IsBlocked(signal));
  }
  EXPECT_FALSE(IsBlocked(SIGTERM));
  EXPECT_FALSE(IsBlocked(signal));
}

}  // namespace
}  // namespace cloister::vcpu
