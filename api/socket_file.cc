// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/socket_file.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/tcp_address.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::api {
namespace {

constexpr int kBacklog = 128;
constexpr int kSocketFlags = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a socket's path has 1 to ",
                     sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::Status InUse(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, ": another process serves there"));
}

// The lock of `path`. Whoever removes the lock file holds the lock, so a lock
// on a file that is still there is the lock.
absl::StatusOr<base::UniqueFd> Lock(const std::string& path) {
  const std::string name = path + ".lock";
  for (;;) {
    // With O_CREAT alone, Linux refuses even root another user's file in a
    // folder such as /tmp (fs.protected_regular), left there by a SIGKILL.
    constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    base::UniqueFd fd(::open(name.c_str(), kFlags));
    if (!fd.valid() && errno == ENOENT) {
      fd.reset(::open(name.c_str(), kFlags | O_CREAT | O_EXCL, 0600));
      if (!fd.valid() && errno == EEXIST) continue;
    }
    if (!fd.valid())
      return base::ErrnoStatus(errno, absl::StrCat("open ", name));
    if (base::RetryOnEintr(
            [&] { return ::flock(fd.get(), LOCK_EX | LOCK_NB); }) < 0) {
      if (errno == EWOULDBLOCK) return InUse(path);
      return base::ErrnoStatus(errno, absl::StrCat("flock ", name));
    }
    struct stat ours = {}, there = {};
    if (::fstat(fd.get(), &ours) == 0 && ::stat(name.c_str(), &there) == 0 &&
        ours.st_ino == there.st_ino && ours.st_dev == there.st_dev) {
      // Whose file it is may remove it from a folder such as /tmp, while it is
      // locked: a lock that another user left becomes one of this user's.
      if (ours.st_uid != ::geteuid() && ::unlink(name.c_str()) == 0) continue;
      return fd;
    }
  }
}

// Removes a socket at `path` that nobody listens on.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) < 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return base::ErrnoStatus(errno, absl::StrCat("stat ", path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is there, and not a socket"));
  }
  base::UniqueFd probe(::socket(AF_UNIX, kSocketFlags, 0));
  if (!probe.valid()) return base::ErrnoStatus(errno, "socket");
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) == 0 ||
      errno != ECONNREFUSED) {
    return InUse(path);
  }
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) {
    return base::ErrnoStatus(errno, absl::StrCat("unlink ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SocketFile>> SocketFile::Create(
    const std::string& path, mode_t mode) {
  RETURN_IF_ERROR(AddressOf(path).status());
  ASSIGN_OR_RETURN(base::UniqueFd lock, Lock(path));
  std::unique_ptr<SocketFile> file(new SocketFile(path, std::move(lock)));
  RETURN_IF_ERROR(file->Bind(mode));
  return file;
}

absl::Status SocketFile::Bind(mode_t mode) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path_));
  RETURN_IF_ERROR(RemoveStale(path_, address));
  socket_.reset(::socket(AF_UNIX, kSocketFlags, 0));
  if (!socket_.valid()) return base::ErrnoStatus(errno, "socket");
  // Linux gives the file the socket's mode (less the umask), so it is never
  // open wider than asked.
  if (::fchmod(socket_.get(), mode) < 0)
    return base::ErrnoStatus(errno, "fchmod");
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address),
             sizeof(address)) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("bind ", path_));
  }
  struct stat info = {};
  if (::lstat(path_.c_str(), &info) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("stat ", path_));
  }
  bound_ = true;
  device_ = info.st_dev;
  inode_ = info.st_ino;
  if (::chmod(path_.c_str(), mode) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("chmod ", path_));
  }
  if (::listen(socket_.get(), kBacklog) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("listen ", path_));
  }
  return absl::OkStatus();
}

SocketFile::~SocketFile() {
  struct stat info = {};
  if (bound_ && ::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  ::unlink((path_ + ".lock").c_str());
}

absl::StatusOr<base::UniqueFd> ListenLoopback(const std::string& address) {
  ASSIGN_OR_RETURN(TcpAddress to, ParseTcpAddress(address));
  if (!to.IsLoopback()) {
    return absl::InvalidArgumentError(
        absl::StrCat(address, ": not a loopback address"));
  }
  base::UniqueFd fd(::socket(to.storage.ss_family, kSocketFlags, 0));
  if (!fd.valid()) return base::ErrnoStatus(errno, "socket");
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
      ::bind(fd.get(), to.raw(), to.size) < 0 ||
      ::listen(fd.get(), kBacklog) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("listen on ", address));
  }
  return fd;
}

absl::StatusOr<std::string> LocalAddress(int fd) {
  sockaddr_storage storage = {};
  socklen_t size = sizeof(storage);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) < 0) {
    return base::ErrnoStatus(errno, "getsockname");
  }
  char text[INET6_ADDRSTRLEN] = {};
  if (storage.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
    ::inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(v4->sin_port));
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
  ::inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(v6->sin6_port));
}

}  // namespace cloister::api
