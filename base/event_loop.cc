// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/event_loop.h"

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::base {

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoStatus(errno, "epoll_create1");
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake.fd();
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd(), &event) < 0) {
    return ErrnoStatus(errno, "epoll_ctl add wake event");
  }
  return std::unique_ptr<EventLoop>(
      new EventLoop(std::move(epoll), std::move(wake)));
}

absl::Status EventLoop::Add(int fd, uint32_t events, Handler handler) {
  MutexLock lock(&mutex_);
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    return ErrnoStatus(errno, absl::StrCat("epoll_ctl add fd ", fd));
  }
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return absl::OkStatus();
}

absl::Status EventLoop::Modify(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0) {
    return ErrnoStatus(errno, absl::StrCat("epoll_ctl modify fd ", fd));
  }
  return absl::OkStatus();
}

void EventLoop::Remove(int fd) {
  MutexLock lock(&mutex_);
  if (handlers_.erase(fd) != 0) {
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

void EventLoop::Dispatch(int fd, uint32_t events) {
  std::shared_ptr<Handler> handler;
  {
    MutexLock lock(&mutex_);
    auto it = handlers_.find(fd);
    if (it == handlers_.end()) return;  // Removed by an earlier handler.
    handler = it->second;
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
      if (events[i].data.fd == wake_.fd()) {
        wake_.Drain();
      } else {
        Dispatch(events[i].data.fd, events[i].events);
      }
    }
    RunTasks();
  }
  return absl::OkStatus();
}

}  // namespace cloister::base
