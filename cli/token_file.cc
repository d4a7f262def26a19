// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/token_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/syscall.h"
#include "cloister/base/unique_fd.h"

namespace cloister::cli {
namespace {

constexpr size_t kMinToken = 16;

}  // namespace

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  const std::string what = absl::StrCat("--api-token-file ", path);
  base::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return base::ErrnoStatus(errno, what);
  struct stat info = {};
  if (::fstat(fd.get(), &info) < 0 || (info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(what, ": others must not be able to read it"));
  }
  char text[4096];
  const ssize_t size =
      base::RetryOnEintr([&] { return ::read(fd.get(), text, sizeof(text)); });
  if (size < 0) return base::ErrnoStatus(errno, what);
  const absl::string_view token = absl::StripAsciiWhitespace(
      absl::string_view(text, static_cast<size_t>(size)));
  if (token.size() < kMinToken) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": a token has ", kMinToken, " characters or more"));
  }
  return std::string(token);
}

}  // namespace cloister::cli
