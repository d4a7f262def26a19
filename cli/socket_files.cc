// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/socket_files.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace cloister::cli {
namespace {

constexpr int kMostDescriptors = 65536;
constexpr char kLockSuffix[] = ".lock";

// System calls on the stack's bytes, and nothing else.

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
  socklen_t size = sizeof(*address);
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

// The process's descriptor of the regular file at `path`, or -1.
int DescriptorOf(const char* path, int descriptors) {
  struct stat there = {}, ours = {};
  if (::lstat(path, &there) < 0 || !S_ISREG(there.st_mode)) return -1;
  for (int fd = 0; fd < descriptors; ++fd) {
    if (::fstat(fd, &ours) == 0 && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev) {
      return fd;
    }
  }
  return -1;
}

}  // namespace

bool SocketFiles::Next(SocketFileNames* names) {
  const int descriptors = DescriptorLimit();
  while (next_ < descriptors) {
    sockaddr_un address;
    struct stat info = {};
    *names = {};
    if (!ListensHere(next_++, &address)) continue;
    // A path may fill its field, without a 0 behind it.
    std::memcpy(names->socket.data(), address.sun_path,
                sizeof(address.sun_path));
    if (::lstat(names->socket.data(), &info) < 0 || !S_ISSOCK(info.st_mode)) {
      continue;
    }
    const size_t length = std::strlen(names->socket.data());
    std::memcpy(names->lock.data(), names->socket.data(), length);
    std::memcpy(names->lock.data() + length, kLockSuffix, sizeof(kLockSuffix));
    names->lock_fd = DescriptorOf(names->lock.data(), descriptors);
    return true;
  }
  return false;
}

}  // namespace cloister::cli
