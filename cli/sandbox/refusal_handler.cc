// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/refusal_handler.h"

#include <poll.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>

#include "cloister/base/syscall.h"
#include "cloister/cli/exit_code.h"
#include "cloister/vmm/sandbox/seccomp_filter.h"
#include "cloister/vmm/sandbox/syscall_name.h"
#include "cloister/vmm/sandbox/thread_kind.h"

namespace cloister::cli {
namespace {

// A line on the stack, without the C library's formatting.
class Line {
 public:
  Line& Text(const char* text) {
    for (; *text != '\0' && size_ < bytes_.size(); ++text) {
      bytes_[size_++] = *text;
    }
    return *this;
  }
  Line& Number(uint64_t value, unsigned base) {
    std::array<char, 21> digits;
    size_t at = digits.size();
    digits[--at] = '\0';
    do {
      digits[--at] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value != 0);
    return Text(&digits[at]);
  }
  // Drops what a reader who does not read has no room for.
  void WriteTo(int fd) const {
    pollfd room = {fd, POLLOUT, 0};
    if (::poll(&room, 1, 0) == 1) (void)!::write(fd, bytes_.data(), size_);
  }

 private:
  std::array<char, 512> bytes_;
  size_t size_ = 0;
};

void AppendArguments(const void* context, Line& line) {
#if defined(__x86_64__)
  const auto* machine = static_cast<const ucontext_t*>(context);
  const greg_t* registers = machine->uc_mcontext.gregs;
  line.Text(", arguments");
  for (int argument : {REG_RDI, REG_RSI, REG_RDX}) {
    line.Text(" 0x").Number(static_cast<uint64_t>(registers[argument]), 16);
  }
#else
  (void)context;
  (void)line;
#endif
}

void OnSigsys(int signal, siginfo_t* info, void* context) {
  const auto refusal = vmm::DecodeRefusal(*info);
  if (!refusal.has_value()) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);
    return;
  }
  Line line;
  line.Text("cloister: error: seccomp: a thread of kind ")
      .Text(vmm::ThreadKindName(refusal->kind))
      .Text(" may not call ")
      .Text(vmm::SyscallName(refusal->syscall))
      .Text(" (")
      .Number(static_cast<uint64_t>(refusal->syscall), 10)
      .Text(")");
  AppendArguments(context, line);
  line.Text("; see docs/sandbox.md (--no-seccomp allows it)\n");
  line.WriteTo(STDERR_FILENO);
  ::_exit(kExitSeccomp);
}

}  // namespace

absl::Status InstallRefusalHandler() {
  struct sigaction action = {};
  action.sa_sigaction = OnSigsys;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGSYS, &action, nullptr) < 0) {
    return base::ErrnoStatus(errno, "sigaction SIGSYS");
  }
  return absl::OkStatus();
}

}  // namespace cloister::cli
