// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/cli/raw_mode.h"

namespace cloister::cli {
namespace {

constexpr size_t kChunk = 4096;
// What a descriptor that may block gets once it polls as writable.
constexpr size_t kCautiousChunk = 256;
// Chunks per turn of the loop, so that a chatty guest does not own it.
constexpr int kChunksPerTurn = 8;
constexpr std::chrono::milliseconds kFlushAtEnd(1000);

constexpr absl::string_view kHelp =
    "\r\nCtrl-A x  quit         Ctrl-A Ctrl-A  send Ctrl-A\r\n"
    "Ctrl-A b  send break   Ctrl-A h       this help\r\n";

bool PollsWritable(int fd, std::chrono::milliseconds limit) {
  pollfd poll_fd = {fd, POLLOUT, 0};
  return ::poll(&poll_fd, 1, static_cast<int>(limit.count())) > 0;
}

// A second open file for a terminal or pipe, so that O_NONBLOCK does not reach
// the processes that share the original (the shell). Invalid if not possible.
base::UniqueFd ReopenNonBlocking(int fd) {
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  return base::UniqueFd(
      ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Terminal>> Terminal::Create(
    base::EventLoop& loop, Options options) {
  std::unique_ptr<Terminal> terminal(new Terminal(loop, std::move(options)));
  RETURN_IF_ERROR(terminal->Start());
  return terminal;
}

Terminal::Terminal(base::EventLoop& loop, Options options)
    : loop_(loop),
      options_(std::move(options)),
      input_is_terminal_(::isatty(options_.input_fd) == 1),
      parse_escapes_(input_is_terminal_ || options_.always_parse_escapes),
      self_(this, [](Terminal*) {}) {}

Terminal::~Terminal() {
  self_.reset();
  PauseInput();
  Flush(kFlushAtEnd);
  SetOutputWatch(false);
  RawMode::Leave();
}

absl::Status Terminal::Start() {
  RETURN_IF_ERROR(StartOutput());
  if (input_is_terminal_) {
    OnContinue();
  } else {
    StartInput();
  }
  return absl::OkStatus();
}

// Runs `method` on the loop's thread, unless the terminal has gone by then.
void Terminal::Post(void (Terminal::*method)()) {
  loop_.Post([weak = std::weak_ptr<Terminal>(self_), method] {
    if (std::shared_ptr<Terminal> self = weak.lock()) ((*self).*method)();
  });
}

// ---- Input ----

void Terminal::StartInput() {
  if (input_ended_ || input_watched_) return;
  if (input_pollable_) {
    absl::Status added =
        loop_.Add(options_.input_fd, EPOLLIN,
                  [this](uint32_t events) { OnInput(events); });
    if (added.ok()) {
      input_watched_ = true;
      return;
    }
    // Regular files and /dev/null are always ready, and epoll refuses them.
    if (base::StatusErrno(added) != EPERM) return EndInput();
    input_pollable_ = false;
  }
  if (std::exchange(read_posted_, true)) return;
  Post(&Terminal::ReadFile);
}

void Terminal::ReadFile() {
  read_posted_ = false;
  if (pending_input_.empty() || parse_escapes_) OnInput(EPOLLIN);
}

void Terminal::PauseInput() {
  if (input_watched_) loop_.Remove(options_.input_fd);
  input_watched_ = false;
}

void Terminal::EndInput() {
  PauseInput();
  input_ended_ = true;
}

void Terminal::OnInput(uint32_t events) {
  if (input_ended_) return;
  if (input_is_terminal_ && RawMode::InBackground(options_.input_fd)) {
    return PauseInput();  // A read would stop the process.
  }
  std::array<uint8_t, 512> buffer;
  const ssize_t size = base::RetryOnEintr(
      [&] { return ::read(options_.input_fd, buffer.data(), buffer.size()); });
  if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
  // In raw mode a read of nothing means that somebody else was faster.
  const bool hung_up = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if (size == 0 && input_is_terminal_ && !hung_up) return;
  if (size <= 0) return EndInput();
  Accept(absl::MakeConstSpan(buffer.data(), static_cast<size_t>(size)));
}

void Terminal::Accept(absl::Span<const uint8_t> bytes) {
  auto keep = [this](absl::Span<const uint8_t> some) {
    const size_t room =
        kInputLimit - std::min(kInputLimit, pending_input_.size());
    some = some.subspan(0, room);
    pending_input_.insert(pending_input_.end(), some.begin(), some.end());
  };
  if (!parse_escapes_) {
    keep(bytes);
  } else {
    for (const EscapeParser::Step& step : parser_.Feed(bytes)) {
      keep(step.bytes);
      if (step.action.has_value()) Obey(*step.action);
    }
  }
  Deliver();
}

void Terminal::Obey(EscapeParser::Action action) {
  switch (action) {
    case EscapeParser::Action::kQuit:
      if (options_.on_quit) options_.on_quit();
      break;
    case EscapeParser::Action::kBreak:
      if (options_.on_break) options_.on_break();
      break;
    case EscapeParser::Action::kHelp:
      Write(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(kHelp.data()),
                                kHelp.size()));
      break;
  }
}

// Gives the guest what it takes. Without commands to watch for, the rest waits
// where it comes from.
void Terminal::Deliver() {
  if (!pending_input_.empty()) {
    const size_t taken = options_.on_input(pending_input_);
    pending_input_.erase(
        pending_input_.begin(),
        pending_input_.begin() + std::min(taken, pending_input_.size()));
  }
  if (!pending_input_.empty() && !parse_escapes_) return PauseInput();
  if (!input_is_terminal_) StartInput();
}

void Terminal::ResumeInput() { Post(&Terminal::Deliver); }

void Terminal::Suspend() {
  RawMode::Leave();
  PauseInput();
  sigset_t stop, before;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTSTP);
  ::raise(SIGTSTP);
  ::pthread_sigmask(SIG_UNBLOCK, &stop, &before);  // Stops here.
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  OnContinue();
}

void Terminal::OnContinue() {
  if (!input_is_terminal_ || input_ended_) return;
  if (RawMode::Enter(options_.input_fd).ok()) {
    StartInput();
  } else {
    PauseInput();
  }
}

// ---- Output ----

absl::Status Terminal::StartOutput() {
  struct stat status;
  if (::fstat(options_.output_fd, &status) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("console output, fd ", options_.output_fd));
  }
  output_fd_ = options_.output_fd;
  output_is_socket_ = S_ISSOCK(status.st_mode);
  output_pollable_ = S_ISFIFO(status.st_mode) || output_is_socket_ ||
                     ::isatty(output_fd_) == 1;
  // In both cases also a number of its own, for epoll.
  if (output_is_socket_) {
    own_output_.reset(::fcntl(output_fd_, F_DUPFD_CLOEXEC, 0));
  } else if (output_pollable_) {
    own_output_ = ReopenNonBlocking(output_fd_);
  }
  if (own_output_.valid()) output_fd_ = own_output_.get();
  return absl::OkStatus();
}

std::optional<Terminal::Size> Terminal::size() const {
  struct winsize window = {};
  if (!input_is_terminal_ ||
      ::ioctl(options_.input_fd, TIOCGWINSZ, &window) != 0 ||
      window.ws_col == 0 || window.ws_row == 0) {
    return std::nullopt;
  }
  return Size{window.ws_col, window.ws_row};
}

size_t Terminal::Write(absl::Span<const uint8_t> bytes) {
  size_t taken;
  bool post;
  {
    base::MutexLock lock(&mutex_);
    if (output_gone_) return bytes.size();
    taken = std::min(bytes.size(), kOutputLimit - output_.size());
    output_.append(bytes.begin(), bytes.begin() + taken);
    if (taken < bytes.size()) room_wanted_ = true;
    post = taken != 0 && !pump_posted_;
    pump_posted_ |= post;
  }
  if (post) Post(&Terminal::PumpOutput);
  return taken;
}

Terminal::WriteResult Terminal::WriteSome(const std::string& chunk,
                                          size_t* written) {
  // Without a descriptor of our own the original may block: ask first.
  size_t limit = chunk.size();
  if (output_pollable_ && !output_is_socket_ && !own_output_.valid()) {
    limit = std::min(limit, kCautiousChunk);
    if (!PollsWritable(output_fd_, std::chrono::milliseconds(0))) {
      return WriteResult::kBlocked;
    }
  }
  const ssize_t size = base::RetryOnEintr([&] {
    return output_is_socket_ ? ::send(output_fd_, chunk.data(), limit,
                                      MSG_DONTWAIT | MSG_NOSIGNAL)
                             : ::write(output_fd_, chunk.data(), limit);
  });
  if (size >= 0) {
    *written = static_cast<size_t>(size);
    return WriteResult::kProgress;
  }
  return errno == EAGAIN || errno == EWOULDBLOCK ? WriteResult::kBlocked
                                                 : WriteResult::kGone;
}

void Terminal::PumpOutput() {
  bool blocked = false, more = true, notify = false;
  for (int i = 0; i < kChunksPerTurn && more && !blocked; ++i) {
    std::string chunk;
    {
      base::MutexLock lock(&mutex_);
      chunk = output_.substr(0, kChunk);
    }
    size_t written = 0;
    WriteResult result = WriteResult::kProgress;
    if (!chunk.empty()) result = WriteSome(chunk, &written);
    blocked = result == WriteResult::kBlocked;

    base::MutexLock lock(&mutex_);
    output_.erase(0, written);
    if (result == WriteResult::kGone) {
      output_gone_ = true;
      output_.clear();
    }
    more = !output_.empty();
    if (!more || blocked) pump_posted_ = blocked;
    if (room_wanted_ && output_.size() <= kOutputLimit / 2) {
      room_wanted_ = false;
      notify = true;
    }
  }
  SetOutputWatch(blocked);
  if (more && !blocked) Post(&Terminal::PumpOutput);
  // Not any more while the destructor flushes.
  if (notify && self_ != nullptr && options_.on_writable)
    options_.on_writable();
}

void Terminal::SetOutputWatch(bool watch) {
  if (watch == output_watched_) return;
  output_watched_ = watch;
  if (!watch) {
    loop_.Remove(output_fd_);
    return;
  }
  absl::Status added =
      loop_.Add(output_fd_, EPOLLOUT, [this](uint32_t) { PumpOutput(); });
  if (added.ok()) return;
  // Nobody would tell us when to go on.
  output_watched_ = false;
  base::MutexLock lock(&mutex_);
  output_gone_ = true;
  output_.clear();
}

void Terminal::Flush(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    PumpOutput();
    {
      base::MutexLock lock(&mutex_);
      if (output_.empty()) return;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return;
    PollsWritable(output_fd_, left);
  }
}

}  // namespace cloister::cli
