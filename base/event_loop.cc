// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/event_loop.h"

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::base {
namespace {

// What epoll returns for a descriptor: its number, and which of the watches on
// that number it was. A turn's events are read at once, so one of them can
// belong to a watch that a handler before it has ended, and whose number is
// watched anew.
uint64_t Token(int fd, uint32_t watch) {
  return uint64_t{watch} << 32 | static_cast<uint32_t>(fd);
}

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoStatus(errno, "epoll_create1");
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = Token(wake.fd(), 0);
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd(), &event) < 0) {
    return ErrnoStatus(errno, "epoll_ctl add wake event");
  }
  return std::unique_ptr<EventLoop>(
      new EventLoop(std::move(epoll), std::move(wake)));
}

absl::Status EventLoop::Add(int fd, uint32_t events, Handler handler) {
  MutexLock lock(&mutex_);
  const uint32_t watch = ++last_watch_;
  epoll_event event{};
  event.events = events;
  event.data.u64 = Token(fd, watch);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    return ErrnoStatus(errno, absl::StrCat("epoll_ctl add fd ", fd));
  }
  watches_[fd] = {watch, std::make_shared<Handler>(std::move(handler))};
  return absl::OkStatus();
}

absl::Status EventLoop::Modify(int fd, uint32_t events) {
  MutexLock lock(&mutex_);
  auto it = watches_.find(fd);
  if (it == watches_.end()) {
    return absl::NotFoundError(absl::StrCat("fd ", fd, " is not watched"));
  }
  epoll_event event{};
  event.events = events;
  event.data.u64 = Token(fd, it->second.number);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0) {
    return ErrnoStatus(errno, absl::StrCat("epoll_ctl modify fd ", fd));
  }
  return absl::OkStatus();
}

void EventLoop::Remove(int fd) {
  MutexLock lock(&mutex_);
  if (watches_.erase(fd) != 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }
}

void EventLoop::Post(std::function<void()> task) {
  {
    MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.Signal();
}

void EventLoop::Stop() {
  stopped_.store(true);
  wake_.Signal();
}

void EventLoop::Dispatch(uint64_t token, uint32_t events) {
  const int fd = static_cast<int>(static_cast<uint32_t>(token));
  std::shared_ptr<Handler> handler;
  {
    MutexLock lock(&mutex_);
    auto it = watches_.find(fd);
    // Removed by an earlier handler, and perhaps another watch by now.
    if (it == watches_.end() || Token(fd, it->second.number) != token) return;
    handler = it->second.handler;
  }
  (*handler)(events);
}

void EventLoop::RunTasks() {
  std::vector<std::function<void()>> tasks;
  {
    MutexLock lock(&mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task();
}

absl::Status EventLoop::Run() {
  std::array<epoll_event, 32> events;
  while (!stopped_.load()) {
    int count = RetryOnEintr([&] {
      return ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    });
    if (count < 0) return ErrnoStatus(errno, "epoll_wait");
    for (int i = 0; i < count && !stopped_.load(); ++i) {
      if (events[i].data.u64 == Token(wake_.fd(), 0)) {
        wake_.Drain();
      } else {
        Dispatch(events[i].data.u64, events[i].events);
      }
    }
    RunTasks();
  }
  return absl::OkStatus();
}

}  // namespace cloister::base
