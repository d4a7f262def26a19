// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/socket_owner.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cloister/base/unique_fd.h"
#include "cloister/cli/socket_files.h"

namespace cloister::cli {
namespace {

// What is given is what was looked at, whatever its name means by then.
void Give(int file, mode_t type, uid_t uid) {
  struct stat info = {};
  if (::fstat(file, &info) < 0 || (info.st_mode & S_IFMT) != type ||
      info.st_uid != ::geteuid() || info.st_nlink != 1 || info.st_size != 0) {
    return;
  }
  // Who may not give files away, or not on this file system, keeps them: the
  // next process takes them over.
  constexpr gid_t kItsOwn = static_cast<gid_t>(-1);
  if (::fchownat(file, "", uid, kItsOwn, AT_EMPTY_PATH) < 0) return;
}

}  // namespace

void GiveSocketFiles(const Identity& identity) {
  if (!identity.uid.has_value()) return;
  SocketFiles files;
  SocketFileNames names;
  while (files.Next(&names)) {
    const base::UniqueFd socket(
        ::open(names.socket.data(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (socket.valid()) Give(socket.get(), S_IFSOCK, *identity.uid);
    if (names.lock_fd >= 0) Give(names.lock_fd, S_IFREG, *identity.uid);
  }
}

}  // namespace cloister::cli
