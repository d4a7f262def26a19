// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/guest_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::tests {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  base::UniqueFd read;
  base::UniqueFd write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) < 0) return base::ErrnoStatus(errno, "pipe2");
  return Pipe{base::UniqueFd(fds[0]), base::UniqueFd(fds[1])};
}

[[noreturn]] void Become(const std::vector<std::string>& argv, int input,
                         int output, const std::function<void()>& prepare) {
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  if (prepare) prepare();
  std::vector<char*> arguments;
  for (const std::string& word : argv) {
    arguments.push_back(const_cast<char*>(word.c_str()));
  }
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestProcess>> GuestProcess::Start(
    const std::vector<std::string>& argv,
    const std::function<void()>& prepare) {
  ASSIGN_OR_RETURN(Pipe input, MakePipe());
  ASSIGN_OR_RETURN(Pipe output, MakePipe());
  pid_t pid = ::fork();
  if (pid < 0) return base::ErrnoStatus(errno, "fork");
  if (pid == 0) {
    Become(argv, input.read.get(), output.write.get(), prepare);
  }
  return std::unique_ptr<GuestProcess>(
      new GuestProcess(pid, std::move(input.write), std::move(output.read)));
}

GuestProcess::~GuestProcess() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  base::RetryOnEintr([&] { return ::waitpid(pid_, nullptr, 0); });
}

std::string GuestProcess::Tail() const {
  const size_t keep = std::min<size_t>(output_.size(), 3000);
  return output_.substr(output_.size() - keep);
}

absl::StatusOr<bool> GuestProcess::ReadSome(Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - Clock::now());
    if (left.count() <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat("no more output; it ends with:\n", Tail()));
    }
    pollfd ready = {console_.get(), POLLIN, 0};
    int count = ::poll(&ready, 1, static_cast<int>(left.count()));
    if (count < 0 && errno != EINTR) return base::ErrnoStatus(errno, "poll");
    if (count <= 0) continue;
    std::array<char, 4096> buffer;
    ssize_t got = base::RetryOnEintr(
        [&] { return ::read(console_.get(), buffer.data(), buffer.size()); });
    if (got < 0) return base::ErrnoStatus(errno, "read");
    output_.append(buffer.data(), got);
    return got > 0;
  }
}

absl::Status GuestProcess::Expect(absl::string_view text,
                                  std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  for (;;) {
    size_t at = output_.find(std::string(text), matched_);
    if (at != std::string::npos) {
      matched_ = at + text.size();
      return absl::OkStatus();
    }
    auto more = ReadSome(deadline);
    if (!more.ok()) {
      return absl::Status(more.status().code(),
                          absl::StrCat("waiting for \"", text,
                                       "\": ", more.status().message()));
    }
    if (!*more) {
      return absl::OutOfRangeError(
          absl::StrCat("ended before \"", text, "\"; last output:\n", Tail()));
    }
  }
}

absl::Status GuestProcess::Type(absl::string_view text) {
  while (!text.empty()) {
    ssize_t sent = base::RetryOnEintr(
        [&] { return ::write(input_.get(), text.data(), text.size()); });
    if (sent < 0) return base::ErrnoStatus(errno, "write to the console");
    text.remove_prefix(sent);
  }
  return absl::OkStatus();
}

void GuestProcess::Signal(int signal) { ::kill(pid_, signal); }

absl::StatusOr<int> GuestProcess::Wait(std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  for (bool more = true; more;) {
    ASSIGN_OR_RETURN(more, ReadSome(deadline));
  }
  int status = 0;
  if (base::RetryOnEintr([&] { return ::waitpid(pid_, &status, 0); }) < 0) {
    return base::ErrnoStatus(errno, "waitpid");
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace cloister::tests
