// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_GUEST_PROCESS_H_
#define CLOISTER_TESTS_GUEST_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/unique_fd.h"

namespace cloister::tests {

// A program with its console on pipes: what a user at a terminal sees and
// types. Not thread-safe. Killed when destroyed, if it still runs.
class GuestProcess {
 public:
  // Starts argv[0], found as execvp does; stdout and stderr come back as one.
  // `prepare` runs in the new process before that, with the pipes in place; if
  // it fails, it ends the process (_exit). The caller has one thread then.
  static absl::StatusOr<std::unique_ptr<GuestProcess>> Start(
      const std::vector<std::string>& argv,
      const std::function<void()>& prepare = nullptr);
  GuestProcess(const GuestProcess&) = delete;
  GuestProcess& operator=(const GuestProcess&) = delete;
  ~GuestProcess();

  // Reads until `text` has appeared after what earlier calls matched.
  // DeadlineExceeded, OutOfRange if the program ends first; both quote the last
  // output.
  absl::Status Expect(absl::string_view text,
                      std::chrono::seconds limit = std::chrono::seconds(120));

  absl::Status Type(absl::string_view text);
  void Signal(int signal);

  // Reads to the end and reaps; the exit code, or 128 plus the signal.
  absl::StatusOr<int> Wait(
      std::chrono::seconds limit = std::chrono::seconds(120));

  // Everything so far.
  const std::string& output() const { return output_; }
  pid_t pid() const { return pid_; }

 private:
  GuestProcess(pid_t pid, base::UniqueFd input, base::UniqueFd output)
      : pid_(pid), input_(std::move(input)), console_(std::move(output)) {}
  // Reads once; false at the end of output.
  absl::StatusOr<bool> ReadSome(std::chrono::steady_clock::time_point deadline);
  std::string Tail() const;

  pid_t pid_;
  base::UniqueFd input_;
  base::UniqueFd console_;
  std::string output_;
  size_t matched_ = 0;
};

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_GUEST_PROCESS_H_
