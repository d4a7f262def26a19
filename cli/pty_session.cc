// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/pty_session.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::cli {
namespace {

using base::UniqueFd;

constexpr int kPatienceMs = 120000;

bool Readable(int fd) {
  pollfd poll_fd = {fd, POLLIN, 0};
  return base::RetryOnEintr([&] { return ::poll(&poll_fd, 1, kPatienceMs); }) >
         0;
}

std::vector<char*> Pointers(const std::vector<std::string>& argv) {
  std::vector<char*> pointers;
  for (const std::string& word : argv) {
    pointers.push_back(const_cast<char*>(word.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

// Between fork and exec: only async-signal-safe calls from here.
[[noreturn]] void Become(const std::vector<char*>& argv, int tty) {
  ::dup2(tty, 0);
  ::dup2(tty, 1);
  ::dup2(tty, 2);
  for (int signal :
       {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGTTOU, SIGTTIN, SIGTSTP, SIGPIPE}) {
    ::signal(signal, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(99);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PtySession>> PtySession::Create() {
  std::unique_ptr<PtySession> session(new PtySession);
  session->master_.reset(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!session->master_.valid()) {
    return base::ErrnoStatus(errno, "posix_openpt");
  }
  const int master = session->master_.get();
  if (::grantpt(master) < 0 || ::unlockpt(master) < 0) {
    return base::ErrnoStatus(errno, "unlockpt");
  }
  session->slave_.reset(
      ::open(::ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!session->slave_.valid()) return base::ErrnoStatus(errno, "open the pty");
  termios modes = session->modes();
  modes.c_cc[VERASE] = 8;
  modes.c_cc[VMIN] = 3;
  modes.c_lflag &= ~ECHOK;
  if (::tcsetattr(session->slave_.get(), TCSANOW, &modes) < 0) {
    return base::ErrnoStatus(errno, "tcsetattr");
  }
  session->before_ = session->modes();
  return session;
}

PtySession::~PtySession() {
  if (child_ <= 0) return;
  if (job_ > 0) ::kill(job_, SIGKILL);
  ::kill(child_, SIGKILL);
  base::RetryOnEintr([&] { return ::waitpid(child_, nullptr, 0); });
}

absl::Status PtySession::Start(const std::vector<std::string>& argv) {
  const std::vector<char*> pointers = Pointers(argv);
  child_ = ::fork();
  if (child_ < 0) return base::ErrnoStatus(errno, "fork");
  if (child_ == 0) {
    ::setsid();
    ::ioctl(slave_.get(), TIOCSCTTY, 0);
    Become(pointers, slave_.get());
  }
  return absl::OkStatus();
}

absl::Status PtySession::StartJob(const std::vector<std::string>& argv) {
  const std::vector<char*> pointers = Pointers(argv);
  int control[2], answer[2];
  if (::pipe2(control, O_CLOEXEC) < 0 || ::pipe2(answer, O_CLOEXEC) < 0) {
    return base::ErrnoStatus(errno, "pipe2");
  }
  UniqueFd control_read(control[0]), answer_write(answer[1]);
  control_.reset(control[1]);
  answer_.reset(answer[0]);
  child_ = ::fork();
  if (child_ < 0) return base::ErrnoStatus(errno, "fork");
  if (child_ == 0) Shell(pointers, control_read.get(), answer_write.get());
  if (::read(answer_.get(), &job_, sizeof(job_)) != sizeof(job_)) {
    return absl::InternalError("the shell did not start its job");
  }
  return absl::OkStatus();
}

void PtySession::Shell(const std::vector<char*>& argv, int control,
                       int answer) {
  ::setsid();
  ::ioctl(slave_.get(), TIOCSCTTY, 0);
  ::signal(SIGTTOU, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  const pid_t job = ::fork();
  if (job == 0) {
    ::setpgid(0, 0);
    Become(argv, slave_.get());
  }
  ::setpgid(job, job);
  if (::write(answer, &job, sizeof(job)) < 0) ::_exit(98);
  for (char command; ::read(control, &command, 1) == 1;) {
    int status = 0;
    if (command == 'f') ::tcsetpgrp(slave_.get(), job);
    if (command == 'b') ::tcsetpgrp(slave_.get(), ::getpgrp());
    if (command == 's') ::waitpid(job, &status, WUNTRACED);
    if (command == 'w') {
      ::waitpid(job, &status, WUNTRACED);
      if (WIFSTOPPED(status)) ::kill(job, SIGKILL);
      ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 97);
    }
    if (::write(answer, &command, 1) != 1) break;
  }
  ::kill(job, SIGKILL);
  ::_exit(96);
}

absl::Status PtySession::Tell(Command command) {
  const char byte = static_cast<char>(command);
  if (::write(control_.get(), &byte, 1) != 1) {
    return absl::InternalError("the shell is gone");
  }
  if (command == Command::kAwaitEnd) return absl::OkStatus();
  char done;
  if (!Readable(answer_.get()) || ::read(answer_.get(), &done, 1) != 1) {
    return absl::DeadlineExceededError(
        absl::StrCat("the shell did not finish '", std::string(1, byte), "'"));
  }
  return absl::OkStatus();
}

termios PtySession::modes() const {
  termios modes = {};
  ::tcgetattr(slave_.get(), &modes);
  return modes;
}

bool PtySession::restored() const {
  const termios now = modes();
  return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag &&
         now.c_cflag == before_.c_cflag && now.c_lflag == before_.c_lflag &&
         std::equal(std::begin(now.c_cc), std::end(now.c_cc),
                    std::begin(before_.c_cc));
}

absl::Status PtySession::Expect(absl::string_view marker) {
  for (;;) {
    const size_t at = output_.find(std::string(marker));
    if (at != std::string::npos) {
      output_.erase(0, at + marker.size());
      return absl::OkStatus();
    }
    char buffer[256];
    ssize_t size = -1;
    if (Readable(master_.get())) {
      size = ::read(master_.get(), buffer, sizeof(buffer));
    }
    if (size <= 0) {
      return absl::OutOfRangeError(
          absl::StrCat("no \"", marker, "\", but \"", output_, "\""));
    }
    output_.append(buffer, static_cast<size_t>(size));
  }
}

absl::Status PtySession::Resize(uint16_t columns, uint16_t rows) {
  struct winsize size = {};
  size.ws_col = columns;
  size.ws_row = rows;
  if (::ioctl(master_.get(), TIOCSWINSZ, &size) != 0) {
    return base::ErrnoStatus(errno, "TIOCSWINSZ");
  }
  return absl::OkStatus();
}

absl::Status PtySession::Type(absl::string_view text) {
  if (::write(master_.get(), text.data(), text.size()) !=
      static_cast<ssize_t>(text.size())) {
    return base::ErrnoStatus(errno, "write to the pty");
  }
  return absl::OkStatus();
}

void PtySession::Signal(int signal) {
  ::kill(job_ > 0 ? job_ : child_, signal);
}

void PtySession::HangUp() {
  slave_.reset();
  master_.reset();
}

absl::StatusOr<int> PtySession::Wait() {
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child_, 0)));
  if (!pidfd.valid()) return base::ErrnoStatus(errno, "pidfd_open");
  if (!Readable(pidfd.get())) {
    return absl::DeadlineExceededError("the program does not end");
  }
  int status = 0;
  if (::waitpid(child_, &status, WNOHANG) != child_) {
    return base::ErrnoStatus(errno, "waitpid");
  }
  child_ = job_ = -1;
  return status;
}

}  // namespace cloister::cli
