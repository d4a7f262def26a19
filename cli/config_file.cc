// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/config_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"
#include "cloister/base/unique_fd.h"

namespace cloister::cli {
namespace {

constexpr size_t kMaxConfigFile = 1 << 20;

}  // namespace

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  base::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    return base::ErrnoStatus(errno, absl::StrCat("--config-file ", path));
  }
  std::string text;
  char part[16384];
  for (;;) {
    const ssize_t size = base::RetryOnEintr(
        [&] { return ::read(fd.get(), part, sizeof(part)); });
    if (size < 0) {
      return base::ErrnoStatus(errno, absl::StrCat("--config-file ", path));
    }
    if (size == 0) return text;
    text.append(part, static_cast<size_t>(size));
    if (text.size() > kMaxConfigFile) {
      return absl::InvalidArgumentError(
          absl::StrCat("--config-file ", path, ": larger than 1 MiB"));
    }
  }
}

}  // namespace cloister::cli
