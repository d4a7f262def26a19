// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/event_fd.h"

#include <fcntl.h>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

TEST(EventFdTest, CountsAndDrains) {
  ASSERT_OK_AND_ASSIGN(EventFd event, EventFd::Create());
  EXPECT_EQ(event.Drain(), 0u);
  event.Signal();
  event.Signal();
  EXPECT_EQ(event.Drain(), 2u);
  EXPECT_EQ(event.Drain(), 0u);
}

TEST(EventFdTest, IsCloseOnExecAndNonBlocking) {
  ASSERT_OK_AND_ASSIGN(EventFd event, EventFd::Create());
  EXPECT_NE(::fcntl(event.fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(event.fd(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace cloister::base
