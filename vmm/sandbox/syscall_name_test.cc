// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/sandbox/syscall_name.h"

#include <sys/syscall.h>

#include <climits>

#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

TEST(SyscallNameTest, KnowsCallsOldAndNew) {
  EXPECT_STREQ(SyscallName(SYS_read), "read");
  EXPECT_STREQ(SyscallName(SYS_execve), "execve");
  EXPECT_STREQ(SyscallName(SYS_clone3), "clone3");
  EXPECT_STREQ(SyscallName(SYS_io_uring_enter), "io_uring_enter");
}

TEST(SyscallNameTest, NumbersWithoutACallAreUnknown) {
  for (long number : {-1L, 511L, 512L, LONG_MAX, LONG_MIN}) {
    EXPECT_STREQ(SyscallName(number), "unknown") << number;
  }
}

}  // namespace
}  // namespace cloister::vmm
