// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_SANDBOX_SECCOMP_FILTER_H_
#define CLOISTER_VMM_SANDBOX_SECCOMP_FILTER_H_

#include <linux/filter.h>
#include <signal.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/vmm/sandbox/seccomp_rules.h"
#include "cloister/vmm/sandbox/thread_kind.h"

namespace cloister::vmm {

// The system calls that one kind of thread may make, as a program for the
// kernel (seccomp(2), SECCOMP_SET_MODE_FILTER). What the rules do not allow is
// refused with SIGSYS, which the program handles (see DecodeRefusal): libraries
// install no signal handlers. Calls of other architectures kill the process.
//
// Immutable; may be installed by any number of threads at once.
class SeccompFilter {
 public:
  // Internal if a rule names a call that libseccomp does not know.
  static absl::StatusOr<SeccompFilter> Build(
      ThreadKind kind, const std::vector<SeccompRule>& rules);

  // Puts the calling thread, and those that it starts later, under the filter
  // for good, and unblocks SIGSYS on it. Filters add up: what one refuses is
  // refused. The process has set PR_SET_NO_NEW_PRIVS. Does not allocate.
  absl::Status Install() const;

  ThreadKind kind() const { return kind_; }
  absl::Span<const sock_filter> program() const { return program_; }

 private:
  SeccompFilter(ThreadKind kind, std::vector<sock_filter> program)
      : kind_(kind), program_(std::move(program)) {}

  ThreadKind kind_;
  std::vector<sock_filter> program_;
};

// A refused system call, as a handler of SIGSYS finds it.
struct SeccompRefusal {
  int syscall = 0;
  // Whose filter refused it: the thread's own, or one that it inherited.
  ThreadKind kind = ThreadKind::kMain;
};

// Nullopt for a SIGSYS of another origin. Async-signal-safe.
std::optional<SeccompRefusal> DecodeRefusal(const siginfo_t& info);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_SANDBOX_SECCOMP_FILTER_H_
