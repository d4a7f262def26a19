// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/crash_cleanup.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

#include "cloister/base/syscall.h"
#include "cloister/cli/socket_files.h"

namespace cloister::cli {
namespace {

constexpr int kCrashSignals[] = {SIGSEGV, SIGBUS,  SIGILL, SIGFPE,
                                 SIGTRAP, SIGABRT, SIGSYS};
// Of 100 ms each: a main thread in the midst of a long system call.
constexpr int kPatience = 30;

enum class Request : int { kNone, kWanted, kDone };

// Signal handlers have no other way to tell each other.
std::atomic<Request> g_request{Request::kNone};
std::atomic<bool> g_installed{false};
static_assert(std::atomic<Request>::is_always_lock_free);

// All of what follows is async-signal-safe.

void RemoveSockets() {
  SocketFiles files;
  SocketFileNames names;
  while (files.Next(&names)) {
    ::unlink(names.socket.data());
    if (names.lock_fd >= 0) ::unlink(names.lock.data());
  }
}

void OnCleanUpSignal(int) {
  const int error = errno;
  // Whoever sends it from elsewhere gets nothing removed.
  if (g_request.load() == Request::kWanted) {
    RemoveSockets();
    g_request.store(Request::kDone);
  }
  errno = error;
}

void OnCrash(int signal) {
  const int error = errno;
  CleanUpAfterCrash();
  // The signal is blocked until this returns: then it has its usual effect,
  // from the same instruction or as raised here.
  ::signal(signal, SIG_DFL);
  ::raise(signal);
  errno = error;
}

absl::Status Handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(signal, &action, nullptr) < 0) {
    return base::ErrnoStatus(errno, "sigaction");
  }
  return absl::OkStatus();
}

}  // namespace

int CleanUpSignal() { return SIGRTMIN + 1; }

absl::Status InstallCrashCleanUp() {
  absl::Status status = Handle(CleanUpSignal(), OnCleanUpSignal);
  for (int signal : kCrashSignals) {
    if (!status.ok()) return status;
    struct sigaction now;
    if (::sigaction(signal, nullptr, &now) == 0 &&
        (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL) {
      status = Handle(signal, OnCrash);
    }
  }
  g_installed.store(status.ok());
  return status;
}

void CleanUpAfterCrash() {
  if (!g_installed.load()) return;
  const pid_t process = ::getpid();
  if (::syscall(SYS_gettid) == process) return RemoveSockets();
  Request none = Request::kNone;
  g_request.compare_exchange_strong(none, Request::kWanted);
  if (::syscall(SYS_tgkill, process, process, CleanUpSignal()) < 0) return;
  for (int i = 0; i < kPatience && g_request.load() != Request::kDone; ++i) {
    ::poll(nullptr, 0, 100);
  }
}

}  // namespace cloister::cli
