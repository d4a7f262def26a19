// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/syscall.h"

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

using ::testing::HasSubstr;

TEST(SyscallTest, ErrnoStatusNamesWhatAndErrno) {
  EXPECT_THAT(ErrnoStatus(ENOENT, "open /no/such"),
              StatusIs(absl::StatusCode::kNotFound,
                       "open /no/such: No such file or directory (ENOENT)"));
  EXPECT_THAT(ErrnoStatus(99999, "x"), StatusIs(absl::StatusCode::kInternal,
                                                HasSubstr("unknown errno")));
}

TEST(SyscallTest, CodesCallersBranchOn) {
  EXPECT_EQ(ErrnoStatus(EPERM, "").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(EEXIST, "").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ErrnoStatus(EINVAL, "").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrnoStatus(ENOMEM, "").code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EAGAIN, "").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrnoStatus(ENOTTY, "").code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ErrnoStatus(EFAULT, "").code(), absl::StatusCode::kInternal);
}

TEST(SyscallTest, StatusErrnoRoundTrips) {
  EXPECT_EQ(StatusErrno(ErrnoStatus(EBUSY, "x")), EBUSY);
  EXPECT_EQ(StatusErrno(absl::InternalError("x")), 0);
}

TEST(SyscallTest, RetryOnEintrRetriesOnlyEintr) {
  int calls = 0;
  EXPECT_EQ(RetryOnEintr([&] {
              if (++calls < 3) {
                errno = EINTR;
                return -1;
              }
              return 7;
            }),
            7);
  EXPECT_EQ(calls, 3);
  calls = 0;
  EXPECT_EQ(RetryOnEintr([&] {
              ++calls;
              errno = EAGAIN;
              return -1;
            }),
            -1);
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace cloister::base
