// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/socket_owner.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cloister/base/unique_fd.h"
#include "cloister/cli/socket_files.h"

namespace cloister::cli {
namespace {

// Whoever may write to the folder could put another file there: what is given
// is what was looked at.
void Give(const char* path, mode_t type, uid_t uid, gid_t gid) {
  const base::UniqueFd file(::open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info = {};
  if (!file.valid() || ::fstat(file.get(), &info) < 0 ||
      (info.st_mode & S_IFMT) != type || info.st_uid != ::geteuid() ||
      info.st_nlink != 1) {
    return;
  }
  // Who may not give files away, or not on this file system, keeps them: the
  // next process takes them over.
  if (::fchownat(file.get(), "", uid, gid, AT_EMPTY_PATH) < 0) return;
}

}  // namespace

void GiveSocketFiles(const Identity& identity) {
  if (!identity.uid.has_value()) return;
  const gid_t gid = identity.gid.value_or(static_cast<gid_t>(-1));
  SocketFiles files;
  SocketFileNames names;
  while (files.Next(&names)) {
    Give(names.socket.data(), S_IFSOCK, *identity.uid, gid);
    if (names.lock[0] != '\0') {
      Give(names.lock.data(), S_IFREG, *identity.uid, gid);
    }
  }
}

}  // namespace cloister::cli
