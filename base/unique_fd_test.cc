// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/unique_fd.h"

#include <fcntl.h>

#include <utility>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

UniqueFd OpenNull() { return UniqueFd(::open("/dev/null", O_RDWR)); }

TEST(UniqueFdTest, ClosesOnDestruction) {
  int raw;
  {
    UniqueFd fd = OpenNull();
    raw = fd.get();
    ASSERT_TRUE(IsOpen(raw));
  }
  EXPECT_FALSE(IsOpen(raw));
}

TEST(UniqueFdTest, MoveTransfersOwnership) {
  UniqueFd a = OpenNull();
  int raw = a.get();
  UniqueFd b = std::move(a);
  EXPECT_FALSE(a.valid());  // NOLINT: the moved-from state is the contract.
  EXPECT_EQ(b.get(), raw);
  UniqueFd c = OpenNull();
  int old = c.get();
  c = std::move(b);
  EXPECT_FALSE(IsOpen(old));
  EXPECT_TRUE(IsOpen(raw));
}

TEST(UniqueFdTest, ReleaseDoesNotClose) {
  UniqueFd fd = OpenNull();
  int raw = fd.release();
  fd.reset();
  EXPECT_TRUE(IsOpen(raw));
  ::close(raw);
}

TEST(UniqueFdTest, DuplicateIsCloseOnExecAndIndependent) {
  UniqueFd fd = OpenNull();
  ASSERT_OK_AND_ASSIGN(UniqueFd copy, fd.Duplicate());
  EXPECT_NE(::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC, 0);
  fd.reset();
  EXPECT_TRUE(IsOpen(copy.get()));
}

TEST(UniqueFdTest, DuplicateOfNothingIsAnError) {
  EXPECT_FALSE(UniqueFd().Duplicate().ok());
}

TEST(UniqueFdTest, SetCloseOnExec) {
  UniqueFd fd = OpenNull();
  ASSERT_EQ(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_OK(SetCloseOnExec(fd.get()));
  EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_FALSE(SetCloseOnExec(-1).ok());
}

}  // namespace
}  // namespace cloister::base
