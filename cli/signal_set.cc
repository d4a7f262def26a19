// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/signal_set.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::cli {

absl::StatusOr<std::unique_ptr<SignalSet>> SignalSet::Create(
    const std::vector<int>& signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) {
    struct sigaction action;
    if (::sigaction(signal, nullptr, &action) < 0) {
      return base::ErrnoStatus(errno, "sigaction");
    }
    if (action.sa_handler != SIG_IGN) sigaddset(&set, signal);
  }
  base::UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return base::ErrnoStatus(errno, "signalfd");
  const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  if (error != 0) return base::ErrnoStatus(error, "pthread_sigmask");
  return std::unique_ptr<SignalSet>(new SignalSet(std::move(fd)));
}

SignalSet::~SignalSet() { Unregister(); }

absl::Status SignalSet::Register(base::EventLoop& loop, Handler handler) {
  Unregister();
  RETURN_IF_ERROR(loop.Add(
      fd_.get(), EPOLLIN,
      [this, handler = std::move(handler)](uint32_t) { OnReadable(handler); }));
  loop_ = &loop;
  return absl::OkStatus();
}

void SignalSet::Unregister() {
  if (loop_ != nullptr) loop_->Remove(fd_.get());
  loop_ = nullptr;
}

// One signal a turn: a handler may unregister, or destroy, this object.
void SignalSet::OnReadable(const Handler& handler) {
  signalfd_siginfo info;
  const ssize_t size = base::RetryOnEintr(
      [&] { return ::read(fd_.get(), &info, sizeof(info)); });
  if (size == static_cast<ssize_t>(sizeof(info))) {
    handler(static_cast<int>(info.ssi_signo));
  }
}

}  // namespace cloister::cli
