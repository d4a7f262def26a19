// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/event_fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "cloister/base/syscall.h"

namespace cloister::base {

absl::StatusOr<EventFd> EventFd::Create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "eventfd");
  return EventFd(std::move(fd));
}

void EventFd::Signal() const {
  const uint64_t one = 1;
  // EAGAIN means the counter is at its limit, which is as signalled as can be.
  (void)RetryOnEintr([&] { return ::write(fd_.get(), &one, sizeof(one)); });
}

uint64_t EventFd::Drain() const {
  uint64_t count = 0;
  ssize_t got =
      RetryOnEintr([&] { return ::read(fd_.get(), &count, sizeof(count)); });
  return got == sizeof(count) ? count : 0;
}

}  // namespace cloister::base
