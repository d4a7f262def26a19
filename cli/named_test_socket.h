// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_NAMED_TEST_SOCKET_H_
#define CLOISTER_CLI_NAMED_TEST_SOCKET_H_

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "cloister/base/unique_fd.h"

namespace cloister::cli {

// A Unix socket with a name of at most 108 bytes, that listens or not. Ends the
// process with code 90 if there can be none.
inline base::UniqueFd NamedTestSocket(const std::string& path, bool listens) {
  base::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() > sizeof(address.sun_path)) ::_exit(90);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0 ||
      (listens && ::listen(fd.get(), 1) != 0)) {
    ::_exit(90);
  }
  return fd;
}

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_NAMED_TEST_SOCKET_H_
