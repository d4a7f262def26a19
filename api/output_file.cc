// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::api {

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Open(
    const std::string& path) {
  struct stat info = {};
  const bool is_pipe =
      ::stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
  // Reading as well keeps a pipe open without a reader (fifo(7), Linux).
  const int flags = (is_pipe ? O_RDWR : O_WRONLY | O_CREAT) | O_APPEND |
                    O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  base::UniqueFd fd(::open(path.c_str(), flags, 0600));
  if (!fd.valid()) return base::ErrnoStatus(errno, absl::StrCat("open ", path));
  if (::fstat(fd.get(), &info) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("stat ", path));
  }
  if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode) &&
      !S_ISCHR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": neither a file nor a named pipe"));
  }
  return std::unique_ptr<OutputFile>(new OutputFile(std::move(fd)));
}

absl::StatusOr<base::UniqueFd> OutputFile::Duplicate() const {
  base::UniqueFd fd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return base::ErrnoStatus(errno, "fcntl F_DUPFD_CLOEXEC");
  return fd;
}

size_t OutputFile::Write(absl::string_view text) {
  const size_t taken = Offer(text);
  dropped_ += text.size() - taken;
  return taken;
}

size_t OutputFile::Offer(absl::string_view text) {
  const ssize_t written = base::RetryOnEintr(
      [&] { return ::write(fd_.get(), text.data(), text.size()); });
  return written < 0 ? 0 : static_cast<size_t>(written);
}

}  // namespace cloister::api
