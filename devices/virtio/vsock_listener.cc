// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::devices::virtio {
namespace {

constexpr int kBacklog = 64;
constexpr std::chrono::seconds kLockLimit{1};
constexpr std::chrono::milliseconds kLockPause{5};

struct sockaddr_un Address(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const struct sockaddr* Generic(const struct sockaddr_un& address) {
  return reinterpret_cast<const struct sockaddr*>(&address);
}

absl::StatusOr<base::UniqueFd> NewSocket() {
  base::UniqueFd fd(
      ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return base::ErrnoStatus(errno, "socket(AF_UNIX)");
  return fd;
}

absl::Status CheckPath(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the path of a vsock is empty");
  }
  if (path.size() > VsockListener::kMaxPath) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vsock path ", path, " is too long: ", path.size(),
        " bytes, and at most ", VsockListener::kMaxPath, " are possible"));
  }
  return absl::OkStatus();
}

// Keeps others from taking the same path over at the same time. Whoever can
// read the directory can lock it, and need not let go: it is not waited for
// longer than kLockLimit.
absl::StatusOr<base::UniqueFd> LockDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "."
                                : slash == 0               ? "/"
                                             : path.substr(0, slash);
  base::UniqueFd fd(
      ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return base::ErrnoStatus(
        errno, absl::StrCat("vsock path ", path, ": open ", directory));
  }
  const auto end = std::chrono::steady_clock::now() + kLockLimit;
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) {
      return base::ErrnoStatus(
          errno, absl::StrCat("vsock path ", path, ": flock ", directory));
    }
    if (std::chrono::steady_clock::now() > end) {
      return absl::UnavailableError(
          absl::StrCat("vsock path ", path, ": another process keeps ",
                       directory, " locked; choose a directory of your own"));
    }
    std::this_thread::sleep_for(kLockPause);
  }
  return fd;
}

// Removes a socket that nobody listens to. The directory is locked.
absl::Status RemoveStale(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) < 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return base::ErrnoStatus(errno, absl::StrCat("vsock path ", path));
  }
  if (!S_ISSOCK(status.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat("vsock path ", path, " exists and is not a socket"));
  }
  absl::StatusOr<base::UniqueFd> other = ConnectUnix(path);
  const int error = base::StatusErrno(other.status());
  if (error == ENOENT) return absl::OkStatus();
  if (error != ECONNREFUSED) {
    return absl::AlreadyExistsError(
        absl::StrCat("vsock path ", path, " is in use"));
  }
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) {
    return base::ErrnoStatus(errno,
                             absl::StrCat("unlink stale vsock path ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<base::UniqueFd> ConnectUnix(const std::string& path) {
  struct sockaddr_un address;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too long"));
  }
  address = Address(path);
  ASSIGN_OR_RETURN(base::UniqueFd fd, NewSocket());
  if (::connect(fd.get(), Generic(address), sizeof(address)) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("connect ", path));
  }
  return fd;
}

absl::StatusOr<std::unique_ptr<VsockListener>> VsockListener::Create(
    const std::string& path) {
  RETURN_IF_ERROR(CheckPath(path));
  ASSIGN_OR_RETURN(base::UniqueFd lock, LockDirectoryOf(path));
  RETURN_IF_ERROR(RemoveStale(path));
  ASSIGN_OR_RETURN(base::UniqueFd fd, NewSocket());
  const struct sockaddr_un address = Address(path);
  if (::bind(fd.get(), Generic(address), sizeof(address)) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("bind vsock path ", path));
  }
  struct stat status;
  if (::listen(fd.get(), kBacklog) < 0 || ::lstat(path.c_str(), &status) < 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return base::ErrnoStatus(error, absl::StrCat("listen on ", path));
  }
  return std::unique_ptr<VsockListener>(
      new VsockListener(std::move(fd), path, status.st_dev, status.st_ino));
}

VsockListener::~VsockListener() {
  absl::StatusOr<base::UniqueFd> lock = LockDirectoryOf(path_);
  struct stat status;
  if (::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
      status.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

absl::StatusOr<base::UniqueFd> VsockListener::Accept() {
  base::UniqueFd client(base::RetryOnEintr([&] {
    return ::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  }));
  if (!client.valid()) {
    return base::ErrnoStatus(errno, absl::StrCat("accept on ", path_));
  }
  return client;
}

}  // namespace cloister::devices::virtio
