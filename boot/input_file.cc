// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"
#include "cloister/boot/byte_buffer.h"

namespace cloister::boot {
namespace {

// read(2) moves at most about 2 GiB at once.
constexpr size_t kChunk = size_t{64} << 20;

}  // namespace

absl::StatusOr<InputFile> InputFile::Open(absl::string_view what,
                                          const std::string& path) {
  std::string name = absl::StrCat(what, " ", path);
  int fd = base::RetryOnEintr([&] {
    return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  });
  if (fd < 0) return base::ErrnoStatus(errno, name);
  base::UniqueFd owned(fd);
  struct stat info;
  if (::fstat(fd, &info) < 0) return base::ErrnoStatus(errno, name);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": not a regular file"));
  }
  if (info.st_size <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": the file is empty"));
  }
  return InputFile(std::move(name), std::move(owned),
                   static_cast<uint64_t>(info.st_size));
}

absl::StatusOr<SharedBytes> InputFile::Read(uint64_t limit) const {
  if (size_ > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": the file has ", size_, " bytes, more than the ",
                     limit, " that are accepted"));
  }
  auto buffer = ByteBuffer::Allocate(size_);
  if (!buffer.ok()) {
    return absl::Status(buffer.status().code(),
                        absl::StrCat(name_, ": ", buffer.status().message()));
  }
  uint64_t done = 0;
  while (done < size_) {
    size_t want = std::min<uint64_t>(kChunk, size_ - done);
    ssize_t got = base::RetryOnEintr([&] {
      return ::pread(fd_.get(), buffer->data() + done, want,
                     static_cast<off_t>(done));
    });
    if (got < 0) return base::ErrnoStatus(errno, absl::StrCat(name_, ": read"));
    if (got == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, ": the file shrank from ", size_, " to ", done,
                       " bytes while it was read"));
    }
    done += static_cast<uint64_t>(got);
  }
  return std::move(*buffer).Share();
}

}  // namespace cloister::boot
