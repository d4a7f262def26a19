// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_INPUT_FILE_H_
#define CLOISTER_BOOT_INPUT_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/unique_fd.h"
#include "cloister/boot/shared_bytes.h"

namespace cloister::boot {

// A regular file that the user named, open for reading. It is read into memory
// rather than mapped: a file that shrinks while it is in use then gives an
// error instead of SIGBUS. Not thread-safe.
class InputFile {
 public:
  // `what` ("kernel") and `path` start every error message. NotFound,
  // PermissionDenied and others from open(2); InvalidArgument for what is not a
  // regular file and for an empty file. Never blocks on a FIFO.
  static absl::StatusOr<InputFile> Open(absl::string_view what,
                                        const std::string& path);

  // "kernel /boot/vmlinuz".
  const std::string& name() const { return name_; }

  // Bytes, when it was opened.
  uint64_t size() const { return size_; }

  // The whole file. InvalidArgument if it is larger than `limit` bytes or
  // became shorter since Open (what was appended since is not read);
  // ResourceExhausted if the host lacks the memory.
  absl::StatusOr<SharedBytes> Read(uint64_t limit) const;

 private:
  InputFile(std::string name, base::UniqueFd fd, uint64_t size)
      : name_(std::move(name)), fd_(std::move(fd)), size_(size) {}

  std::string name_;
  base::UniqueFd fd_;
  uint64_t size_;
};

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_INPUT_FILE_H_
