// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_OUTPUT_FILE_H_
#define CLOISTER_API_OUTPUT_FILE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/unique_fd.h"

namespace cloister::api {

// A file or named pipe that text is appended to and nobody waits for: what a
// pipe has no room for is dropped and counted. Thread-safe; each Write is one
// write(2), so lines do not mix.
class OutputFile {
 public:
  // Makes the file, mode 0600, if it is not there. A named pipe needs no
  // reader. NotFound, PermissionDenied ...; InvalidArgument for folders and
  // sockets.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Open(
      const std::string& path);

  // Returns how many bytes were taken; the others are dropped.
  size_t Write(absl::string_view text);
  // Returns how many bytes were taken; the caller keeps the others.
  size_t Offer(absl::string_view text);
  uint64_t dropped_bytes() const { return dropped_.load(); }

  // A descriptor of the same open file, for signal handlers: they cannot lock.
  absl::StatusOr<base::UniqueFd> Duplicate() const;

 private:
  explicit OutputFile(base::UniqueFd fd) : fd_(std::move(fd)) {}
  base::UniqueFd fd_;
  std::atomic<uint64_t> dropped_{0};
};

}  // namespace cloister::api

#endif  // CLOISTER_API_OUTPUT_FILE_H_
