// SPDX-License-Identifier: Apache-2.0
//
// A program on a pseudo-terminal of its own (test only).
#ifndef CLOISTER_CLI_PTY_SESSION_H_
#define CLOISTER_CLI_PTY_SESSION_H_

#include <sys/types.h>
#include <termios.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/unique_fd.h"

namespace cloister::cli {

// A new pseudo-terminal whose modes no default has, so that only a true copy
// restores them, and a program that runs on it: either as the session's leader
// in the foreground, or as a job of a small shell that leads the session and
// knows job control. No wait sees two minutes of silence. Not thread-safe. What
// still runs is killed on destruction.
class PtySession {
 public:
  static absl::StatusOr<std::unique_ptr<PtySession>> Create();
  PtySession(const PtySession&) = delete;
  PtySession& operator=(const PtySession&) = delete;
  ~PtySession();

  // Starts argv[0] with every signal at its default; a session may start
  // another program after the first has ended.
  absl::Status Start(const std::vector<std::string>& argv);

  // The same in a process group of its own that is in the background. The
  // session's program is then the shell, which ends with the job's exit code.
  absl::Status StartJob(const std::vector<std::string>& argv);
  // What the shell can be told.
  enum class Command : char {
    kForeground = 'f',  // the job gets the terminal
    kBackground = 'b',  // the shell takes it back
    kAwaitStop = 's',   // returns once the job has stopped
    kAwaitEnd = 'w',    // does not return: the shell ends when the job does
  };
  absl::Status Tell(Command command);
  pid_t job() const { return job_; }

  // The terminal's modes, now and when nobody had changed them.
  termios modes() const;
  bool restored() const;

  // Makes the terminal so large, in characters; SIGWINCH follows.
  absl::Status Resize(uint16_t columns, uint16_t rows);

  // Reads output until `marker`, and forgets all up to it.
  absl::Status Expect(absl::string_view marker);
  absl::Status Type(absl::string_view text);
  void Signal(int signal);
  // Both ends are closed: SIGHUP to the foreground, EIO for the rest.
  void HangUp();

  // Waits for the end of the program; its wait status.
  absl::StatusOr<int> Wait();

 private:
  PtySession() = default;
  [[noreturn]] void Shell(const std::vector<char*>& argv, int control,
                          int answer);

  base::UniqueFd master_, slave_;
  base::UniqueFd control_, answer_;
  termios before_ = {};
  pid_t child_ = -1;
  pid_t job_ = -1;
  std::string output_;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_PTY_SESSION_H_
