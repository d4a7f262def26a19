// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/exit_code.h"

#include <csignal>

#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

// Scripts compare them: a change is a change of the program's interface.
TEST(ExitCodeTest, NumbersStay) {
  EXPECT_EQ(kExitOk, 0);
  EXPECT_EQ(kExitError, 1);
  EXPECT_EQ(kExitUsage, 2);
  EXPECT_EQ(kExitTripleFault, 3);
  EXPECT_EQ(kExitInternalError, 4);
  EXPECT_EQ(kExitNotVerified, 5);
  EXPECT_EQ(kExitConversion, 6);
  EXPECT_EQ(kExitSeccomp, 148);
  EXPECT_EQ(kExitSignalBase, 128);
}

// A shell shows a program that a signal killed as 128 plus its number: no code
// may look like one that ends a program here.
TEST(ExitCodeTest, NoneLooksLikeADeadlySignal) {
  for (int signal : {SIGHUP, SIGINT, SIGTERM, SIGKILL, SIGSEGV, SIGABRT, SIGBUS,
                     SIGILL, SIGFPE, SIGPIPE, SIGSYS, SIGALRM, SIGQUIT}) {
    EXPECT_NE(kExitSeccomp, kExitSignalBase + signal) << signal;
  }
}

}  // namespace
}  // namespace cloister::cli
