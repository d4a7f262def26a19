// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_LISTENER_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_LISTENER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"

namespace cloister::devices::virtio {

// A listening Unix stream socket under a path of its own, which goes away with
// this object.
class VsockListener {
 public:
  // Leaves room for "_" and a port after the path (sun_path, unix(7)).
  static constexpr size_t kMaxPath = 107 - 11;

  // Makes the socket. A socket that nobody listens to any more is replaced;
  // who else starts at the same time is kept out by a lock on the directory.
  // InvalidArgument for a path that is empty or too long, AlreadyExists for
  // one that is in use or is not a socket, Unavailable if somebody keeps the
  // directory locked for a second; each names the path.
  static absl::StatusOr<std::unique_ptr<VsockListener>> Create(
      const std::string& path);
  VsockListener(const VsockListener&) = delete;
  VsockListener& operator=(const VsockListener&) = delete;
  // Removes the path, unless something else is there by now. Waits for that
  // lock for no more than a second.
  ~VsockListener();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

  // The next client, non-blocking; Unavailable if there is none.
  absl::StatusOr<base::UniqueFd> Accept();

 private:
  VsockListener(base::UniqueFd fd, std::string path, dev_t device, ino_t inode)
      : fd_(std::move(fd)),
        path_(std::move(path)),
        device_(device),
        inode_(inode) {}

  const base::UniqueFd fd_;
  const std::string path_;
  const dev_t device_;
  const ino_t inode_;
};

// Connects to a Unix stream socket without blocking. NotFound and Unavailable
// among the errors.
absl::StatusOr<base::UniqueFd> ConnectUnix(const std::string& path);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_LISTENER_H_
