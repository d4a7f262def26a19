// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/sandbox/seccomp_filter.h"

#include <linux/seccomp.h>
#include <pthread.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/base/unique_fd.h"

namespace cloister::vmm {
namespace {

struct Release {
  void operator()(void* context) const { seccomp_release(context); }
};
using Context = std::unique_ptr<void, Release>;

// In the data of SECCOMP_RET_TRAP, which the kernel hands on as si_errno. Not
// zero, which other senders of the signal leave there.
constexpr uint32_t kTrapDataBase = 0x4300;

// SYS_SECCOMP of Linux's asm-generic/siginfo.h, which glibc's headers clash
// with.
constexpr int kSeccompCode = 1;

absl::Status Failed(int negative_errno, const char* what) {
  return base::ErrnoStatus(-negative_errno, what);
}

absl::Status AddRule(const Context& context, const SeccompRule& rule) {
  const int call = seccomp_syscall_resolve_name(rule.name);
  if (call == __NR_SCMP_ERROR) {
    return absl::InternalError(
        absl::StrCat("seccomp: no system call is named ", rule.name));
  }
  if (call < 0) return absl::OkStatus();  // Not on this architecture.
  std::vector<scmp_arg_cmp> compares;
  for (const ArgumentCheck& check : rule.checks) {
    compares.push_back(
        SCMP_CMP64(check.index, SCMP_CMP_MASKED_EQ, check.mask, check.value));
  }
  const uint32_t action = rule.action == SeccompRule::Action::kNotThere
                              ? SCMP_ACT_ERRNO(ENOSYS)
                              : SCMP_ACT_ALLOW;
  const int result = seccomp_rule_add_array(
      context.get(), action, call, static_cast<unsigned>(compares.size()),
      compares.data());
  return result == 0 ? absl::OkStatus() : Failed(result, rule.name);
}

// libseccomp writes programs into files only.
absl::StatusOr<std::vector<sock_filter>> Export(const Context& context) {
  base::UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file.valid()) return base::ErrnoStatus(errno, "memfd_create");
  const int result = seccomp_export_bpf(context.get(), file.get());
  if (result != 0) return Failed(result, "seccomp_export_bpf");
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  std::vector<sock_filter> program(static_cast<size_t>(size) /
                                   sizeof(sock_filter));
  if (size <= 0 || ::pread(file.get(), program.data(),
                           static_cast<size_t>(size), 0) != size) {
    return absl::InternalError("seccomp: cannot read the filter back");
  }
  return program;
}

}  // namespace

absl::StatusOr<SeccompFilter> SeccompFilter::Build(
    ThreadKind kind, const std::vector<SeccompRule>& rules) {
  Context context(seccomp_init(SCMP_ACT_TRAP));
  if (context == nullptr) {
    return absl::ResourceExhaustedError("seccomp_init failed");
  }
  // A process that changes to another architecture has been taken over.
  int result = seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH,
                                SCMP_ACT_KILL_PROCESS);
  // A search tree over the calls' numbers.
  if (result == 0) {
    result = seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  }
  if (result != 0) return Failed(result, "seccomp_attr_set");
  for (const SeccompRule& rule : rules) {
    if (rule.threads & ThreadBit(kind)) {
      RETURN_IF_ERROR(AddRule(context, rule));
    }
  }
  ASSIGN_OR_RETURN(std::vector<sock_filter> program, Export(context));
  for (sock_filter& instruction : program) {
    if (instruction.code == (BPF_RET | BPF_K) &&
        instruction.k == SECCOMP_RET_TRAP) {
      instruction.k |= kTrapDataBase | static_cast<uint32_t>(kind);
    }
  }
  return SeccompFilter(kind, std::move(program));
}

absl::Status SeccompFilter::Install() const {
  sigset_t refusal;
  sigemptyset(&refusal);
  sigaddset(&refusal, SIGSYS);
  ::pthread_sigmask(SIG_UNBLOCK, &refusal, nullptr);
  const sock_fprog program = {static_cast<unsigned short>(program_.size()),
                              const_cast<sock_filter*>(program_.data())};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0) {
    return base::ErrnoStatus(errno, "seccomp SECCOMP_SET_MODE_FILTER");
  }
  return absl::OkStatus();
}

std::optional<SeccompRefusal> DecodeRefusal(const siginfo_t& info) {
  const uint32_t data = static_cast<uint32_t>(info.si_errno);
  if (info.si_signo != SIGSYS || info.si_code != kSeccompCode ||
      data < kTrapDataBase || data >= kTrapDataBase + kThreadKinds) {
    return std::nullopt;
  }
  return SeccompRefusal{info.si_syscall,
                        static_cast<ThreadKind>(data - kTrapDataBase)};
}

}  // namespace cloister::vmm
