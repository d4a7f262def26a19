// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_SYSCALL_H_
#define CLOISTER_BASE_SYSCALL_H_

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace cloister::base {

// An absl::Status for errno value `error`, "<what>: <strerror> (<ENAME>)".
//
// Codes a caller may branch on: ENOENT/ENODEV/ENXIO NotFound; EACCES/EPERM
// PermissionDenied; EEXIST AlreadyExists; EINVAL/E2BIG InvalidArgument; ENOMEM,
// ENOSPC, EMFILE, ENFILE ResourceExhausted; EAGAIN/EBUSY/EINTR Unavailable;
// ENOSYS/ENOTTY/EOPNOTSUPP Unimplemented; ERANGE OutOfRange; else Internal.
absl::Status ErrnoStatus(int error, absl::string_view what);

// The errno that ErrnoStatus recorded in `status`, or 0 if it came from
// elsewhere.
int StatusErrno(const absl::Status& status);

// "EINVAL" for EINVAL; "unknown errno" for numbers without a name.
const char* ErrnoName(int error);

// Calls `call` until it does something other than fail with EINTR.
template <typename Call>
auto RetryOnEintr(Call&& call) -> decltype(call()) {
  for (;;) {
    auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

}  // namespace cloister::base

#endif  // CLOISTER_BASE_SYSCALL_H_
