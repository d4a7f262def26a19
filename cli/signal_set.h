// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SIGNAL_SET_H_
#define CLOISTER_CLI_SIGNAL_SET_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/unique_fd.h"

namespace cloister::cli {

// Turns signals into calls on an event loop: signalfd(2).
//
// Create it before the process's first thread: the signals are blocked in the
// calling thread, and threads inherit that. They stay blocked when it is gone:
// a signal that comes while the process leaves changes nothing about its exit
// code. Signals that are ignored when it is created (nohup) stay ignored.
class SignalSet {
 public:
  using Handler = std::function<void(int signal)>;

  static absl::StatusOr<std::unique_ptr<SignalSet>> Create(
      const std::vector<int>& signals);
  SignalSet(const SignalSet&) = delete;
  SignalSet& operator=(const SignalSet&) = delete;
  ~SignalSet();

  // Calls `handler` on the loop's thread for each signal, until Unregister or
  // destruction, whichever comes first. `loop` must outlive that.
  absl::Status Register(base::EventLoop& loop, Handler handler);
  void Unregister();

 private:
  explicit SignalSet(base::UniqueFd fd) : fd_(std::move(fd)) {}
  void OnReadable(const Handler& handler);

  base::UniqueFd fd_;
  base::EventLoop* loop_ = nullptr;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SIGNAL_SET_H_
