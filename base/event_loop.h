// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_EVENT_LOOP_H_
#define CLOISTER_BASE_EVENT_LOOP_H_

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_fd.h"
#include "cloister/base/mutex.h"
#include "cloister/base/unique_fd.h"

namespace cloister::base {

// Calls handlers when descriptors become ready: epoll(7), level-triggered.
//
// Run() belongs to one thread, and handlers run on it. Add, Modify, Remove,
// Post and Stop may be called from any thread, handlers included. A handler
// that was removed is not called again once Remove returns on the loop's
// thread, nor is a later one for the same number called in its place; from
// another thread it may still be running when Remove returns (use
// Post to order things).
class EventLoop {
 public:
  // `events` is a set of EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP.
  using Handler = std::function<void(uint32_t events)>;

  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Watches `fd`, which the caller owns and removes before closing it.
  // AlreadyExists if it is watched already.
  absl::Status Add(int fd, uint32_t events, Handler handler);
  // NotFound if `fd` is not watched.
  absl::Status Modify(int fd, uint32_t events);
  void Remove(int fd);

  // Runs `task` on the loop's thread, after the handlers of this turn.
  void Post(std::function<void()> task);

  // Dispatches until Stop. Returns an error only if epoll itself fails. A
  // stopped loop stays stopped: a later Run returns at once.
  absl::Status Run();
  void Stop();

 private:
  EventLoop(UniqueFd epoll, EventFd wake)
      : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  struct Watch {
    uint32_t number;
    std::shared_ptr<Handler> handler;
  };
  void Dispatch(uint64_t token, uint32_t events);
  void RunTasks();

  UniqueFd epoll_;
  EventFd wake_;
  std::atomic<bool> stopped_{false};
  Mutex mutex_;
  std::map<int, Watch> watches_ ABSL_GUARDED_BY(mutex_);
  uint32_t last_watch_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::base

#endif  // CLOISTER_BASE_EVENT_LOOP_H_
