// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/crash_cleanup.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>

#include "cloister/base/syscall.h"

namespace cloister::cli {
namespace {

constexpr int kCrashSignals[] = {SIGSEGV, SIGBUS,  SIGILL, SIGFPE,
                                 SIGTRAP, SIGABRT, SIGSYS};
constexpr int kMostDescriptors = 65536;
// Of 100 ms each: a main thread in the midst of a long system call.
constexpr int kPatience = 30;
constexpr char kLockSuffix[] = ".lock";

enum class Request : int { kNone, kWanted, kDone };

// Signal handlers have no other way to tell each other.
std::atomic<Request> g_request{Request::kNone};
std::atomic<bool> g_installed{false};
static_assert(std::atomic<Request>::is_always_lock_free);

// All of what follows is async-signal-safe: system calls on the stack's bytes.

int DescriptorLimit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return kMostDescriptors;
  return static_cast<int>(
      std::min<rlim_t>(limit.rlim_cur, rlim_t{kMostDescriptors}));
}

// Whether `fd` is a Unix socket that this process has called listen(2) on, with
// a name in the file system; its address then.
bool ListensHere(int fd, sockaddr_un* address) {
  *address = {};
  socklen_t size = sizeof(*address) - 1;  // leaves the path's last byte 0
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(address), &size) < 0 ||
      address->sun_family != AF_UNIX || address->sun_path[0] == '\0') {
    return false;
  }
  int listens = 0;
  socklen_t int_size = sizeof(listens);
  ucred maker = {};
  socklen_t maker_size = sizeof(maker);
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &int_size) ==
             0 &&
         listens != 0 &&
         ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &maker, &maker_size) == 0 &&
         maker.pid == ::getpid();
}

// The lock file of a socket, if it is open in this process (api/socket_file.h).
void RemoveLockOf(const char* socket_path, int descriptors) {
  std::array<char, sizeof(sockaddr_un::sun_path) + sizeof(kLockSuffix)> path;
  const size_t length = std::strlen(socket_path);
  std::memcpy(path.data(), socket_path, length);
  std::memcpy(path.data() + length, kLockSuffix, sizeof(kLockSuffix));
  struct stat there = {}, ours = {};
  if (::lstat(path.data(), &there) < 0 || !S_ISREG(there.st_mode)) return;
  for (int fd = 0; fd < descriptors; ++fd) {
    if (::fstat(fd, &ours) == 0 && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev) {
      ::unlink(path.data());
      return;
    }
  }
}

void RemoveSockets() {
  const int descriptors = DescriptorLimit();
  sockaddr_un address;
  struct stat info = {};
  for (int fd = 0; fd < descriptors; ++fd) {
    if (!ListensHere(fd, &address) || ::lstat(address.sun_path, &info) < 0 ||
        !S_ISSOCK(info.st_mode)) {
      continue;
    }
    ::unlink(address.sun_path);
    RemoveLockOf(address.sun_path, descriptors);
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
