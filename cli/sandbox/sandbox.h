// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SANDBOX_SANDBOX_H_
#define CLOISTER_CLI_SANDBOX_SANDBOX_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/log.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/sandbox/identity.h"
#include "cloister/vmm/sandbox/seccomp_filter.h"
#include "cloister/vmm/sandbox/thread_kind.h"

namespace cloister::cli {

struct SandboxOptions {
  bool seccomp = true;  // --no-seccomp: false
  std::string user;     // empty: nobody else
  std::string group;
};

// Sets PR_SET_NO_NEW_PRIVS: for every command, before anything else.
absl::Status ForbidNewPrivileges();

// What takes rights from a process with VMs: docs/sandbox.md. Create it, and
// call EnterMain, on the main thread before there is any other.
class Sandbox {
 public:
  // Looks up names, builds the filters and installs the handler that names a
  // refused system call. Takes nothing away yet. `log` must outlive the object.
  static absl::StatusOr<std::unique_ptr<Sandbox>> Create(
      const SandboxOptions& options, base::Logger& log);
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  // Puts the main thread under its filter, which threads inherit.
  absl::Status EnterMain();

  // Becomes --user and --group, once what needs root is open; all threads do.
  // The files of listening sockets become that user's.
  absl::Status DropIdentity();

  // Explains an EACCES once that is done: "; the monitor has become user ...".
  // Empty if the process stays who it is.
  std::string denied_hint() const;

  // For VmHooks::kvm_fd: /dev/kvm, opened by Create if the process is to become
  // somebody who may not open it; else -1.
  int kvm_fd() const { return kvm_.get(); }

  // For VmHooks::on_thread_start and other threads: the calling thread's
  // filter. Ends the process if the kernel takes none. Any thread.
  void EnterThread(vmm::ThreadKind kind) const;

 private:
  Sandbox(Identity identity, base::Logger& log)
      : identity_(identity), log_(log) {}

  const Identity identity_;
  base::Logger& log_;
  base::UniqueFd kvm_;
  // By kind; empty without filters.
  std::vector<vmm::SeccompFilter> filters_;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SANDBOX_SANDBOX_H_
