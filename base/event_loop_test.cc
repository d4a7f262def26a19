// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/event_loop.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::base {
namespace {

class EventLoopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(loop_, EventLoop::Create());
    ASSERT_OK_AND_ASSIGN(EventFd event, EventFd::Create());
    event_ = std::make_unique<EventFd>(std::move(event));
  }
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<EventFd> event_;
};

TEST_F(EventLoopTest, CallsHandlerOnceReady) {
  int calls = 0;
  ASSERT_OK(loop_->Add(event_->fd(), EPOLLIN, [&](uint32_t events) {
    EXPECT_EQ(events, static_cast<uint32_t>(EPOLLIN));
    event_->Drain();
    if (++calls == 2) {
      loop_->Stop();
    } else {
      event_->Signal();
    }
  }));
  event_->Signal();
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(calls, 2);
}

TEST_F(EventLoopTest, AddTwiceIsAnError) {
  ASSERT_OK(loop_->Add(event_->fd(), EPOLLIN, [](uint32_t) {}));
  EXPECT_THAT(loop_->Add(event_->fd(), EPOLLIN, [](uint32_t) {}),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(EventLoopTest, HandlerMayRemoveItselfAndOthers) {
  ASSERT_OK_AND_ASSIGN(EventFd other, EventFd::Create());
  int calls = 0;
  auto handler = [&](uint32_t) {
    ++calls;
    loop_->Remove(event_->fd());
    loop_->Remove(other.fd());
    loop_->Post([&] { loop_->Stop(); });
  };
  ASSERT_OK(loop_->Add(event_->fd(), EPOLLIN, handler));
  ASSERT_OK(loop_->Add(other.fd(), EPOLLIN, handler));
  event_->Signal();
  other.Signal();
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(calls, 1);
}

// Both are ready in one turn. The first handler ends the other's watch, and a
// descriptor of the same number, which is not ready, is watched instead.
TEST_F(EventLoopTest, AnEventIsNotGivenToALaterWatchOfTheNumber) {
  ASSERT_OK_AND_ASSIGN(EventFd other, EventFd::Create());
  ASSERT_OK_AND_ASSIGN(EventFd idle, EventFd::Create());
  int first_calls = 0;
  int later_calls = 0;
  const std::array<int, 2> fds = {event_->fd(), other.fd()};
  for (int i = 0; i < 2; ++i) {
    const int mine = fds[i];
    const int theirs = fds[1 - i];
    ASSERT_OK(loop_->Add(mine, EPOLLIN, [&, mine, theirs](uint32_t) {
      ++first_calls;
      loop_->Remove(mine);
      loop_->Remove(theirs);
      ASSERT_EQ(::dup2(idle.fd(), theirs), theirs);
      ASSERT_OK(loop_->Add(theirs, EPOLLIN, [&](uint32_t) { ++later_calls; }));
      loop_->Post([&] { loop_->Stop(); });
    }));
  }
  event_->Signal();
  other.Signal();
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(first_calls, 1);
  EXPECT_EQ(later_calls, 0);
}

TEST_F(EventLoopTest, ModifyOfWhatIsNotWatchedIsAnError) {
  EXPECT_THAT(loop_->Modify(event_->fd(), EPOLLIN),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(EventLoopTest, PostFromAnotherThreadRunsOnLoopThread) {
  std::atomic<bool> ran{false};
  std::thread::id loop_thread;
  std::thread runner([&] {
    loop_thread = std::this_thread::get_id();
    EXPECT_OK(loop_->Run());
  });
  std::thread::id task_thread;
  loop_->Post([&] {
    task_thread = std::this_thread::get_id();
    ran = true;
    loop_->Stop();
  });
  runner.join();
  EXPECT_TRUE(ran);
  EXPECT_EQ(task_thread, loop_thread);
}

TEST_F(EventLoopTest, StopBeforeRunReturnsAtOnce) {
  loop_->Stop();
  EXPECT_OK(loop_->Run());
}

TEST_F(EventLoopTest, ModifyChangesInterest) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  UniqueFd a(fds[0]), b(fds[1]);
  uint32_t seen = 0;
  ASSERT_OK(loop_->Add(a.get(), EPOLLIN, [&](uint32_t events) {
    seen |= events;
    loop_->Stop();
  }));
  ASSERT_OK(loop_->Modify(a.get(), EPOLLOUT));
  ASSERT_OK(loop_->Run());
  EXPECT_EQ(seen, static_cast<uint32_t>(EPOLLOUT));
}

}  // namespace
}  // namespace cloister::base
