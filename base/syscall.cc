// SPDX-License-Identifier: Apache-2.0
#include "cloister/base/syscall.h"

#include <cstring>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace cloister::base {
namespace {

constexpr char kErrnoPayload[] = "cloister/errno";

absl::StatusCode CodeFor(int error) {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
      return absl::StatusCode::kPermissionDenied;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case EINVAL:
    case E2BIG:
      return absl::StatusCode::kInvalidArgument;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
      return absl::StatusCode::kResourceExhausted;
    case EAGAIN:
    case EBUSY:
    case EINTR:
      return absl::StatusCode::kUnavailable;
    case ENOSYS:
    case ENOTTY:
    case EOPNOTSUPP:
      return absl::StatusCode::kUnimplemented;
    case ERANGE:
      return absl::StatusCode::kOutOfRange;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

const char* ErrnoName(int error) {
  const char* name = ::strerrorname_np(error);
  return name == nullptr ? "unknown errno" : name;
}

absl::Status ErrnoStatus(int error, absl::string_view what) {
  char buffer[128];
  const char* text = ::strerror_r(error, buffer, sizeof(buffer));
  absl::Status status(CodeFor(error), absl::StrCat(what, ": ", text, " (",
                                                   ErrnoName(error), ")"));
  status.SetPayload(kErrnoPayload, absl::Cord(absl::StrCat(error)));
  return status;
}

int StatusErrno(const absl::Status& status) {
  auto payload = status.GetPayload(kErrnoPayload);
  int error = 0;
  if (!payload.has_value()) return 0;
  return absl::SimpleAtoi(std::string(*payload), &error) ? error : 0;
}

}  // namespace cloister::base
