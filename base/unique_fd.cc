// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/unique_fd.h"

#include <fcntl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::base {

absl::StatusOr<UniqueFd> UniqueFd::Duplicate() const {
  return DuplicateFd(fd_);
}

absl::StatusOr<UniqueFd> DuplicateFd(int fd) {
  int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return ErrnoStatus(errno, absl::StrCat("duplicate fd ", fd));
  return UniqueFd(copy);
}

absl::Status SetCloseOnExec(int fd) {
  int flags = ::fcntl(fd, F_GETFD);
  if (flags < 0 || ::fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0) {
    return ErrnoStatus(errno, absl::StrCat("set FD_CLOEXEC on fd ", fd));
  }
  return absl::OkStatus();
}

}  // namespace cloister::base
