// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SIGNAL_SET_H_
#define CLOISTER_CLI_SIGNAL_SET_H_

#include <csignal>
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
// calling thread, and threads inherit that. Destroying it restores the calling
// thread's mask, so a signal that nobody took then has its usual effect.
// Signals that are ignored when it is created (nohup) stay ignored.
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
  SignalSet(base::UniqueFd fd, const sigset_t& previous)
      : fd_(std::move(fd)), previous_mask_(previous) {}
  void OnReadable(const Handler& handler);

  base::UniqueFd fd_;
  sigset_t previous_mask_;
  base::EventLoop* loop_ = nullptr;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SIGNAL_SET_H_
