// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/raw_mode.h"

#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::cli {
namespace {

struct FatalSignal {
  int number;
  // A crash, even if somebody (a sanitizer) has a handler that reports it.
  bool always;
};
// Signals that end a process by default; without those that libraries use to
// interrupt threads.
constexpr std::array<FatalSignal, 22> kFatalSignals = {{
    {SIGHUP, false},  {SIGINT, false},    {SIGQUIT, false}, {SIGILL, true},
    {SIGTRAP, true},  {SIGABRT, true},    {SIGBUS, true},   {SIGFPE, true},
    {SIGSEGV, true},  {SIGSYS, true},     {SIGPIPE, false}, {SIGALRM, false},
    {SIGTERM, false}, {SIGXCPU, false},   {SIGXFSZ, false}, {SIGPROF, false},
    {SIGIO, false},   {SIGVTALRM, false}, {SIGUSR1, false}, {SIGUSR2, false},
    {SIGPWR, false},  {SIGSTKFLT, false},
}};

// Signal and exit handlers have no other way to find the terminal. What they
// read is written before `raw` is set or before they are installed.
struct State {
  std::atomic<bool> raw{false};
  int fd = -1;
  termios original = {};
  std::array<struct sigaction, kFatalSignals.size()> previous = {};
  std::array<bool, kFatalSignals.size()> hooked = {};
  bool exit_hooked = false;
};
State g_state;
static_assert(std::atomic<bool>::is_always_lock_free);

// For a stack overflow on the thread that enters raw mode.
alignas(16) std::array<char, 64 * 1024> g_signal_stack;

// Sets the modes even from the background. Async-signal-safe.
int SetModes(int fd, const termios& modes) {
  sigset_t ttou, before;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  ::pthread_sigmask(SIG_BLOCK, &ttou, &before);
  int result;
  do {
    result = ::tcsetattr(fd, TCSANOW, &modes);
  } while (result < 0 && errno == EINTR);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return result;
}

// Async-signal-safe. Two threads may both restore: to the same modes.
void Restore() {
  if (!g_state.raw.load()) return;
  SetModes(g_state.fd, g_state.original);
  g_state.raw.store(false);
}

void OnFatalSignal(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  Restore();
  for (size_t i = 0; i < kFatalSignals.size(); ++i) {
    if (kFatalSignals[i].number != signal) continue;
    const struct sigaction& previous = g_state.previous[i];
    ::sigaction(signal, &previous, nullptr);
    // Called rather than raised anew, for what it is to hear of the signal.
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
      previous.sa_sigaction(signal, info, context);
      errno = error;
      return;
    }
  }
  // The signal is blocked here; what is raised arrives once this returns, with
  // the action it had before.
  ::raise(signal);
  errno = error;
}

bool IsOurs(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 &&
         action.sa_sigaction == OnFatalSignal;
}

void HookSignals() {
  stack_t stack = {};
  if (::sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE)) {
    stack = {};
    stack.ss_sp = g_signal_stack.data();
    stack.ss_size = g_signal_stack.size();
    ::sigaltstack(&stack, nullptr);
  }
  struct sigaction action = {};
  action.sa_sigaction = OnFatalSignal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kFatalSignals.size(); ++i) {
    struct sigaction previous;
    const FatalSignal& signal = kFatalSignals[i];
    if (::sigaction(signal.number, nullptr, &previous) < 0) continue;
    const bool info = (previous.sa_flags & SA_SIGINFO) != 0;
    if (!info && previous.sa_handler == SIG_IGN) continue;
    if (IsOurs(previous)) continue;
    const bool by_default = !info && previous.sa_handler == SIG_DFL;
    if (!by_default && !signal.always) continue;
    g_state.previous[i] = previous;
    g_state.hooked[i] = ::sigaction(signal.number, &action, nullptr) == 0;
  }
}

// Puts back the former actions, unless somebody else has set one since.
void UnhookSignals() {
  for (size_t i = 0; i < kFatalSignals.size(); ++i) {
    if (!g_state.hooked[i]) continue;
    g_state.hooked[i] = false;
    struct sigaction now;
    const int number = kFatalSignals[i].number;
    if (::sigaction(number, nullptr, &now) == 0 && IsOurs(now)) {
      ::sigaction(number, &g_state.previous[i], nullptr);
    }
  }
}

termios RawModes(termios modes) {
  const tcflag_t output = modes.c_oflag;
  ::cfmakeraw(&modes);
  modes.c_oflag = output;
  // A read never waits: the caller polls.
  modes.c_cc[VMIN] = 0;
  modes.c_cc[VTIME] = 0;
  return modes;
}

}  // namespace

absl::Status RawMode::Enter(int fd) {
  if (active() && g_state.fd != fd) {
    return absl::InvalidArgumentError(
        absl::StrCat("terminal fd ", g_state.fd, " is in raw mode already"));
  }
  if (InBackground(fd)) {
    return absl::FailedPreconditionError(
        absl::StrCat("terminal fd ", fd, " belongs to the foreground"));
  }
  if (!active()) {
    termios modes;
    if (::tcgetattr(fd, &modes) < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("tcgetattr fd ", fd, ": ", base::ErrnoName(errno)));
    }
    g_state.fd = fd;
    g_state.original = modes;
    if (!g_state.exit_hooked) {
      std::atexit(Restore);
      std::at_quick_exit(Restore);
      g_state.exit_hooked = true;
    }
    HookSignals();
    g_state.raw.store(true);
  }
  if (SetModes(fd, RawModes(g_state.original)) < 0) {
    const int error = errno;
    Leave();
    return base::ErrnoStatus(error, absl::StrCat("tcsetattr fd ", fd));
  }
  return absl::OkStatus();
}

void RawMode::Leave() {
  if (!active()) return;
  Restore();
  UnhookSignals();
}

bool RawMode::active() { return g_state.raw.load(); }

bool RawMode::InBackground(int fd) {
  const pid_t foreground = ::tcgetpgrp(fd);
  return foreground >= 0 && foreground != ::getpgrp();
}

}  // namespace cloister::cli
