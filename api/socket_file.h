// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_SOCKET_FILE_H_
#define CLOISTER_API_SOCKET_FILE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"

namespace cloister::api {

// A listening Unix socket with a name in the file system, which goes when this
// object does.
//
// One process at a time has a name: it holds a lock on "<path>.lock" meanwhile.
// A socket that nobody listens on any more is taken over; one that somebody
// listens on, or a file of another kind, is left alone. What lies at `path`
// when the object goes is only removed if it is still the same socket.
class SocketFile {
 public:
  // `mode` is what the socket's file gets from the start. AlreadyExists if
  // somebody serves there; InvalidArgument if the path is too long for a
  // socket (107 bytes) or something else is there; errors of the system calls.
  static absl::StatusOr<std::unique_ptr<SocketFile>> Create(
      const std::string& path, mode_t mode = 0600);
  ~SocketFile();
  SocketFile(const SocketFile&) = delete;
  SocketFile& operator=(const SocketFile&) = delete;

  // The listening socket, non-blocking.
  int fd() const { return socket_.get(); }

 private:
  SocketFile(std::string path, base::UniqueFd lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  absl::Status Bind(mode_t mode);

  const std::string path_;
  base::UniqueFd lock_;
  base::UniqueFd socket_;
  bool bound_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// A listening TCP socket on a loopback address: "127.0.0.1:8080", "[::1]:0".
// InvalidArgument for any other address.
absl::StatusOr<base::UniqueFd> ListenLoopback(const std::string& address);

// Where a TCP socket listens: "127.0.0.1:40123".
absl::StatusOr<std::string> LocalAddress(int fd);

}  // namespace cloister::api

#endif  // CLOISTER_API_SOCKET_FILE_H_
