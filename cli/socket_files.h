// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SOCKET_FILES_H_
#define CLOISTER_CLI_SOCKET_FILES_H_

#include <sys/un.h>

#include <array>
#include <cstddef>

namespace cloister::cli {

// The name of a Unix socket's file, and one with a suffix.
constexpr size_t kSocketNameSize = sizeof(sockaddr_un::sun_path) + 1;
constexpr size_t kLockNameSize = kSocketNameSize + sizeof(".lock");

struct SocketFileNames {
  std::array<char, kSocketNameSize> socket;
  // "<name>.lock", and its descriptor if it is there and the process holds it
  // open, as that of the API; else -1.
  std::array<char, kLockNameSize> lock;
  int lock_fd;
};

// Goes through what lies in the file system for this process: every Unix socket
// with a name there that it made and listens on itself. Async-signal-safe.
class SocketFiles {
 public:
  // Fills `names` and returns true, or returns false: there are no more. What
  // it names may be removed before the next call.
  bool Next(SocketFileNames* names);

 private:
  int next_ = 0;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SOCKET_FILES_H_
