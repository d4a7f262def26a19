// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_TERMINAL_H_
#define CLOISTER_CLI_TERMINAL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/mutex.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/escape_parser.h"

namespace cloister::cli {

// The guest's console on the process's standard input and output.
//
// A terminal on input goes into raw mode (RawMode tells how it comes back) and
// Ctrl-A commands are obeyed, even while the guest takes no input: what it
// leaves then is kept up to kInputLimit. Any other input is passed on byte for
// byte as fast as the guest takes it, and its end, or a hangup, just ends
// console input. In a background process group the terminal is neither changed
// nor read until OnContinue finds it in the foreground.
// Output never blocks the caller: Write queues, the loop's thread writes. Once
// the output is gone (closed pipe, hangup) it is dropped, provided that the
// program ignores SIGPIPE: signal dispositions are main's, not a library's.
//
// Write and ResumeInput may be called from any thread; everything else belongs
// to the loop's thread, or happens while the loop does not run. No callback may
// destroy the terminal.
class Terminal {
 public:
  // What is queued at most in either direction, in bytes.
  static constexpr size_t kOutputLimit = 64 * 1024;
  static constexpr size_t kInputLimit = 4 * 1024;

  struct Options {
    int input_fd = 0;
    int output_fd = 1;
    // Obey Ctrl-A commands even if the input is no terminal (a relay's pipe).
    bool always_parse_escapes = false;
    // Input for the guest; takes a prefix and returns its length. If that is
    // not everything, call ResumeInput when there is room. Required.
    std::function<size_t(absl::Span<const uint8_t>)> on_input;
    // There is room for output again after a Write cut short. May be empty.
    std::function<void()> on_writable;
    // Ctrl-A x, and Ctrl-A b. May be empty.
    std::function<void()> on_quit;
    std::function<void()> on_break;
  };

  // Watches the input on `loop`, which must outlive the terminal. The
  // descriptors stay the caller's. Errors only if the output is not open or
  // epoll fails; without usable input there just is none.
  static absl::StatusOr<std::unique_ptr<Terminal>> Create(base::EventLoop& loop,
                                                          Options options);
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  // Writes what is queued, for at most a second, and restores the terminal.
  ~Terminal();

  // Queues a prefix of `bytes` and returns its length.
  size_t Write(absl::Span<const uint8_t> bytes);
  // The guest has room for input again.
  void ResumeInput();
  // Writes out what is queued, waiting no longer than `limit`.
  void Flush(std::chrono::milliseconds limit);

  // For SIGTSTP: restores the terminal and stops the process, all its threads;
  // returns once it is continued, as after OnContinue.
  void Suspend();
  // For SIGCONT: raw mode and input again if in the foreground, else neither.
  void OnContinue();

  // Of the terminal on input, in characters; nullopt if there is none, or it
  // does not say.
  struct Size {
    uint16_t columns = 0;
    uint16_t rows = 0;
  };
  std::optional<Size> size() const;

  // False once console input has ended.
  bool input_open() const { return !input_ended_; }

 private:
  enum class WriteResult { kProgress, kBlocked, kGone };

  Terminal(base::EventLoop& loop, Options options);
  absl::Status Start();
  absl::Status StartOutput();
  void StartInput();
  void PauseInput();
  void EndInput();
  void OnInput(uint32_t events);
  void ReadFile();
  void Accept(absl::Span<const uint8_t> bytes);
  void Obey(EscapeParser::Action action);
  void Deliver();
  void Post(void (Terminal::*method)());

  void PumpOutput();
  WriteResult WriteSome(const std::string& chunk, size_t* written);
  void SetOutputWatch(bool watch);

  base::EventLoop& loop_;
  const Options options_;
  const bool input_is_terminal_;
  const bool parse_escapes_;
  // Tasks on the loop find out by it that the terminal has gone.
  std::shared_ptr<Terminal> self_;

  // The loop's thread only.
  EscapeParser parser_;
  std::vector<uint8_t> pending_input_;
  bool input_ended_ = false;
  bool input_watched_ = false;
  bool input_pollable_ = true;  // False for files: always ready.
  bool read_posted_ = false;
  base::UniqueFd own_output_;  // Non-blocking; if the original is not.
  int output_fd_ = -1;
  bool output_pollable_ = true;
  bool output_is_socket_ = false;
  bool output_watched_ = false;

  base::Mutex mutex_;
  std::string output_ ABSL_GUARDED_BY(mutex_);
  bool output_gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool pump_posted_ ABSL_GUARDED_BY(mutex_) = false;
  bool room_wanted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_TERMINAL_H_
