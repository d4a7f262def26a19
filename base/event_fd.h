// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_EVENT_FD_H_
#define CLOISTER_BASE_EVENT_FD_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"

namespace cloister::base {

// An eventfd(2), non-blocking and close-on-exec: a counter that one side adds
// to and the other takes. Thread-safe.
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create();

  // Wraps a descriptor that is already an eventfd.
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

  // Adds one. Never blocks: a counter at its limit is already signalled.
  void Signal() const;

  // Takes the whole count; 0 when nothing was signalled.
  uint64_t Drain() const;

 private:
  UniqueFd fd_;
};

}  // namespace cloister::base

#endif  // CLOISTER_BASE_EVENT_FD_H_
