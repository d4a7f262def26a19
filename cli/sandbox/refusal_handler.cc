// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/refusal_handler.h"

#include <poll.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <utility>

#include "cloister/base/mutex.h"
#include "cloister/base/syscall.h"
#include "cloister/cli/crash_cleanup.h"
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
  // With zeroes before it, to `width` digits.
  Line& Padded(uint64_t value, int width) {
    for (uint64_t power = 10; --width > 0; power *= 10) {
      if (value < power) Text("0");
    }
    return Number(value, 10);
  }
  // "2026-11-21T05:41:31.123456Z".
  Line& Time(uint64_t utc_us);
  const char* c_str() {
    bytes_[std::min(size_, bytes_.size() - 1)] = '\0';
    return bytes_.data();
  }
  // Drops what a reader who does not read has no room for.
  void WriteTo(int fd) const {
    pollfd room = {fd, POLLOUT, 0};
    if (::poll(&room, 1, 0) == 1) (void)!::write(fd, bytes_.data(), size_);
  }

 private:
  std::array<char, 1536> bytes_;
  size_t size_ = 0;
};

// The date by counting: a year that begins in March has its leap day last, and
// 400 years have 146097 days.
Line& Line::Time(uint64_t utc_us) {
  const uint64_t seconds = utc_us / 1000000;
  const uint64_t days = seconds / 86400 + 719468;  // since 0000-03-01
  const uint64_t era = days / 146097, of_era = days % 146097;
  const uint64_t year =
      (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  const uint64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  const uint64_t march = (5 * of_year + 2) / 153;  // months since March
  const uint64_t month = march < 10 ? march + 3 : march - 9;
  return Padded(era * 400 + year + (month <= 2 ? 1 : 0), 4)
      .Text("-")
      .Padded(month, 2)
      .Text("-")
      .Padded(of_year - (153 * march + 2) / 5 + 1, 2)
      .Text("T")
      .Padded(seconds / 3600 % 24, 2)
      .Text(":")
      .Padded(seconds / 60 % 60, 2)
      .Text(":")
      .Padded(seconds % 60, 2)
      .Text(".")
      .Padded(utc_us % 1000000, 6)
      .Text("Z");
}

// What the handler needs of a RefusalLog, where it finds it.
struct LogSlot {
  base::UniqueFd fd;
  std::array<char, 256> before_time, before_message, after_message;
};
struct LogState {
  base::Mutex mutex;  // of SetRefusalLog
  // A handler may read one slot while the other is filled.
  std::array<LogSlot, 2> slots;
  std::atomic<LogSlot*> current{nullptr};
};

// Never destroyed: a handler may run while statics are torn down.
LogState& State() {
  static LogState& state = *new LogState;
  return state;
}
// The handler's way to it, for the first call of State() locks.
std::atomic<LogState*> g_log{nullptr};

void Fill(const std::string& text, std::array<char, 256>& to) {
  const size_t size = std::min(text.size(), to.size() - 1);
  std::copy_n(text.data(), size, to.data());
  to[size] = '\0';
}

void WriteToLog(Line& message) {
  const LogState* state = g_log.load();
  const LogSlot* slot = state == nullptr ? nullptr : state->current.load();
  if (slot == nullptr) return;
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  Line line;
  line.Text(slot->before_time.data())
      .Time(static_cast<uint64_t>(now.tv_sec) * 1000000 +
            static_cast<uint64_t>(now.tv_nsec) / 1000)
      .Text(slot->before_message.data())
      .Text(message.c_str())
      .Text(slot->after_message.data());
  line.WriteTo(slot->fd.get());
}

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
    CleanUpAfterCrash();
    ::signal(signal, SIG_DFL);
    ::raise(signal);
    return;
  }
  Line message;
  message.Text("seccomp: a thread of kind ")
      .Text(vmm::ThreadKindName(refusal->kind))
      .Text(" may not call ")
      .Text(vmm::SyscallName(refusal->syscall))
      .Text(" (")
      .Number(static_cast<uint64_t>(refusal->syscall), 10)
      .Text(")");
  AppendArguments(context, message);
  message.Text("; see docs/sandbox.md (--no-seccomp allows it)");
  Line line;
  line.Text("cloister: error: ").Text(message.c_str()).Text("\n");
  line.WriteTo(STDERR_FILENO);
  WriteToLog(message);
  CleanUpAfterCrash();
  ::_exit(kExitSeccomp);
}

}  // namespace

void SetRefusalLog(RefusalLog log) {
  LogState& state = State();
  base::MutexLock lock(&state.mutex);
  if (!log.fd.valid()) {
    state.current.store(nullptr);
    return;
  }
  LogSlot& free = state.slots[state.current.load() == &state.slots[0] ? 1 : 0];
  free.fd = std::move(log.fd);
  Fill(log.before_time, free.before_time);
  Fill(log.before_message, free.before_message);
  Fill(log.after_message, free.after_message);
  state.current.store(&free);
  g_log.store(&state);
}

std::string RefusalTime(uint64_t utc_us) {
  Line line;
  return line.Time(utc_us).c_str();
}

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
