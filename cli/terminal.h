// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_TERMINAL_H_
#define CLOISTER_CLI_TERMINAL_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/mutex.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/escape_parser.h"

namespace cloister::cli {

// The guest's console on the process's standard input and output.
//
// A terminal on input goes into raw mode (RawMode tells how it comes back) and
// Ctrl-A commands are obeyed. Any other input is passed on byte for byte, and
// its end, or a hangup, just ends console input. In a background process group
// the terminal is neither changed nor read until OnContinue finds it in the
// foreground.
// Output never blocks the caller: Write queues, the loop's thread writes.
//
// Construction, Start, On..., Flush and destruction belong to the loop's thread
// or happen while the loop does not run; Write and ResumeInput may be called
// from any thread.
class Terminal {
 public:
  // Output that Write accepts beyond what the descriptor has taken.
  static constexpr size_t kOutputLimit = 64 * 1024;

  struct Options {
    int input_fd = 0;
    int output_fd = 1;
    // Obey Ctrl-A commands even if the input is no terminal (a relay's pipe).
    bool always_parse_escapes = false;
    // Input for the guest; takes a prefix and returns its length. If that is
    // not everything, call ResumeInput when there is room. Loop's thread.
    std::function<size_t(absl::Span<const uint8_t>)> on_input;
    // There is room for output again after a Write cut short. Loop's thread,
    // without a lock.
    std::function<void()> on_writable;
    // Ctrl-A x. Loop's thread.
    std::function<void()> on_quit;
    // Ctrl-A b; may be empty.
    std::function<void()> on_break;
  };

  // Watches the input on `loop`, which must outlive the terminal. Errors only
  // if descriptors cannot be used at all (closed, or no memory).
  static absl::StatusOr<std::unique_ptr<Terminal>> Create(base::EventLoop& loop,
                                                          Options options);
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  // Restores the terminal; writes what is queued, for at most a second.
  ~Terminal();

  // Queues a prefix of `bytes` and returns its length.
  size_t Write(absl::Span<const uint8_t> bytes);
  // The guest's side has room for input again.
  void ResumeInput();
  // Writes out what is queued, waiting no longer than `limit`.
  void Flush(std::chrono::milliseconds limit);

  // For SIGTSTP: restores the terminal and stops the process (all its threads);
  // returns when it is continued.
  void Suspend();
  // For SIGCONT: raw mode again, if in the foreground.
  void OnContinue();

  // False once console input has ended.
  bool input_open() const { return !input_ended_; }

 private:
  class Shared;  // Outlives the terminal while posted tasks refer to it.

  Terminal(base::EventLoop& loop, Options options);
  absl::Status Start();
  absl::Status OpenOutput();
  void StartInput();
  void StopInput(bool for_good);
  void OnInput(uint32_t events);
  void Deliver();
  void Obey(EscapeParser::Action action);
  void PumpOutput();
  void WatchOutput(bool watch);

  base::EventLoop& loop_;
  const Options options_;
  const bool input_is_terminal_;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_TERMINAL_H_
