// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/sandbox.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/cli/crash_cleanup.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/sandbox/refusal_handler.h"
#include "cloister/cli/sandbox/socket_owner.h"
#include "cloister/vmm/sandbox/seccomp_rules.h"

namespace cloister::cli {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitizer = true;
#else
constexpr bool kSanitizer = false;
#endif
#else
constexpr bool kSanitizer = false;
#endif

constexpr int kHeaps = 8;

}  // namespace

absl::Status ForbidNewPrivileges() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    return base::ErrnoStatus(errno, "prctl PR_SET_NO_NEW_PRIVS");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Sandbox>> Sandbox::Create(
    const SandboxOptions& options, base::Logger& log) {
  ASSIGN_OR_RETURN(const Identity identity,
                   ResolveIdentity(options.user, options.group));
  RETURN_IF_ERROR(ForbidNewPrivileges());
  if (identity.uid.has_value()) RETURN_IF_ERROR(EmptyBoundingSet());
  std::unique_ptr<Sandbox> sandbox(new Sandbox(identity, log));
  if (!identity.empty()) {
    // Where there is none, whoever needs it says so.
    sandbox->kvm_.reset(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  }
  if (!options.seccomp) {
    log.Warning("seccomp: off (--no-seccomp)");
    return sandbox;
  }
  if (kSanitizer) {
    log.Warning("seccomp: off: the sanitizer of this build needs more calls");
    return sandbox;
  }
  RETURN_IF_ERROR(InstallRefusalHandler());
  // The C library opens /etc/localtime when a thread, any of them, first asks
  // for a date (the guest's clock).
  ::tzset();
  // And how many processors there are in /sys, when the ninth thread first
  // allocates memory, to decide how many heaps there may be. It may be told.
  ::mallopt(M_ARENA_MAX, kHeaps);
  vmm::SeccompFacts facts;
  facts.process = ::getpid();
  facts.uid = identity.uid;
  facts.gid = identity.gid;
  const std::vector<vmm::SeccompRule> rules = vmm::SeccompRules(facts);
  for (int kind = 0; kind < vmm::kThreadKinds; ++kind) {
    ASSIGN_OR_RETURN(
        vmm::SeccompFilter filter,
        vmm::SeccompFilter::Build(static_cast<vmm::ThreadKind>(kind), rules));
    sandbox->filters_.push_back(std::move(filter));
  }
  return sandbox;
}

absl::Status Sandbox::EnterMain() {
  if (filters_.empty()) return absl::OkStatus();
  return filters_[static_cast<size_t>(vmm::ThreadKind::kMain)].Install();
}

absl::Status Sandbox::DropIdentity() {
  GiveSocketFiles(identity_);
  return BecomeIdentity(identity_);
}

std::string Sandbox::denied_hint() const {
  if (identity_.empty()) return "";
  std::string who;
  if (identity_.uid.has_value()) who = absl::StrCat("user ", *identity_.uid);
  if (identity_.gid.has_value()) {
    absl::StrAppend(&who, who.empty() ? "" : " and ", "group ", *identity_.gid);
  }
  return absl::StrCat("; the monitor has become ", who,
                      " (--user, --group), who may not");
}

void Sandbox::EnterThread(vmm::ThreadKind kind) const {
  if (filters_.empty()) return;
  absl::Status status = filters_[static_cast<size_t>(kind)].Install();
  if (status.ok()) return;
  log_.Error(absl::StrCat("thread of kind ", vmm::ThreadKindName(kind), ": ",
                          status.message()));
  CleanUpAfterCrash();
  ::_exit(kExitError);
}

}  // namespace cloister::cli
