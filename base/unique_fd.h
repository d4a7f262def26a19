// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_UNIQUE_FD_H_
#define CLOISTER_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace cloister::base {

// Owns one file descriptor and closes it when destroyed. Move-only.
//
// Not thread-safe; the descriptor it names may be used from any thread as long
// as the owner outlives the use.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

  // Gives up ownership without closing.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

  // Closes what is held, if anything, and takes ownership of `fd`.
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

  // A second descriptor, close-on-exec, for the same open file.
  absl::StatusOr<UniqueFd> Duplicate() const;

 private:
  int fd_ = -1;
};

// A second descriptor, close-on-exec, for what `fd`, which is borrowed, names.
absl::StatusOr<UniqueFd> DuplicateFd(int fd);

// Sets FD_CLOEXEC; for descriptors whose creating call cannot (guest_memfd).
absl::Status SetCloseOnExec(int fd);

}  // namespace cloister::base

#endif  // CLOISTER_BASE_UNIQUE_FD_H_
