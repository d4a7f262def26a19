// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/runner.h"

#include <sched.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cloister/base/blocked_signals.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/registers.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vcpu/regs.h"

namespace cloister::vcpu {
namespace {

// Entries it may take until KVM has taken an answer: the fragments of an access
// are few; more is a KVM that never takes it.
constexpr int kMaxCompletionEntries = 4096;
// Tries to queue a signal while the user's queue is full.
constexpr int kKickTries = 100;
constexpr auto kKickAgainAfter = std::chrono::milliseconds(10);

std::optional<RunEnd> EndOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kContinue:
      return std::nullopt;
    case Verdict::kReset:
      return RunEnd{RunEnd::Kind::kReset, absl::OkStatus(), ""};
    case Verdict::kPowerOff:
      return RunEnd{RunEnd::Kind::kPowerOff, absl::OkStatus(), ""};
  }
  return std::nullopt;
}

// The state after INIT (SDM vol. 3A table 9-1), which KVM on AMD puts a vCPU
// into when it triple-faults.
bool LooksReset(const kvm::Registers& registers,
                const kvm::SpecialRegisters& special) {
  return registers.rip == 0xfff0 && special.cs.base == 0xffff0000;
}

}  // namespace

absl::string_view RunEndName(RunEnd::Kind kind) {
  switch (kind) {
    case RunEnd::Kind::kStopped:
      return "stopped";
    case RunEnd::Kind::kHalted:
      return "halted";
    case RunEnd::Kind::kReset:
      return "reset";
    case RunEnd::Kind::kPowerOff:
      return "power off";
    case RunEnd::Kind::kGuestShutdown:
      return "guest shutdown";
    case RunEnd::Kind::kError:
      return "error";
  }
  return "unknown";
}

Runner::Runner(kvm::VcpuFd vcpu, ExitHandler& handler, RunnerOptions options,
               EndCallback on_end)
    : handler_(handler),
      options_(std::move(options)),
      on_end_(std::move(on_end)),
      vcpu_(std::move(vcpu)) {}

Runner::~Runner() { Stop(); }

// --- starting ---

absl::Status Runner::Claim() {
  absl::Status status = CheckKickHandler(options_.kick_signal);
  if (!status.ok()) return status;
  base::MutexLock lock(&mutex_);
  if (claimed_) {
    return absl::FailedPreconditionError(
        absl::StrCat("vCPU ", options_.index, " was started before"));
  }
  claimed_ = true;
  return absl::OkStatus();
}

void* Runner::ThreadMain(void* runner) {
  auto* self = static_cast<Runner*>(runner);
  if (self->options_.on_start) self->options_.on_start();
  self->RunToEnd();
  return nullptr;
}

absl::Status Runner::Start() {
  absl::Status status = Claim();
  if (!status.ok()) return status;
  // Held while the thread starts, so that nobody joins before there is one.
  base::MutexLock join_lock(&join_mutex_);
  pthread_t thread;
  int error;
  {
    base::BlockedSignals blocked;
    error = pthread_create(&thread, nullptr, &Runner::ThreadMain, this);
  }
  if (error != 0) {
    base::MutexLock lock(&mutex_);
    claimed_ = false;
    return absl::ResourceExhaustedError(absl::StrCat(
        "no thread for vCPU ", options_.index, ": ", std::strerror(error)));
  }
  pthread_setname_np(thread, absl::StrCat("vcpu", options_.index).c_str());
  thread_ = thread;
  return absl::OkStatus();
}

absl::StatusOr<RunEnd> Runner::RunHere() {
  absl::Status status = Claim();
  if (!status.ok()) return status;
  return RunToEnd();
}

RunEnd Runner::RunToEnd() {
  UnblockedSignal unblocked(options_.kick_signal);
  {
    base::MutexLock lock(&mutex_);
    runs_on_ = pthread_self();
  }
  RunEnd end = Loop();
  {
    base::MutexLock lock(&mutex_);
    end_ = end;
    phase_ = Phase::kEnded;
    changed_.SignalAll();
  }
  if (on_end_) on_end_(end);
  return end;
}

// --- requests ---

void Runner::Kick() {
  attention_.store(true, std::memory_order_release);
  kick_failed_ = false;
  if (phase_ != Phase::kRunning) return;
  vcpu_.SetImmediateExit(true);
  int error = 0;
  for (int i = 0; i < kKickTries; ++i) {
    error = pthread_kill(runs_on_, options_.kick_signal);
    if (error != EAGAIN) break;
    sched_yield();
  }
  kick_failed_ = error != 0;
  kicks_.fetch_add(1, std::memory_order_relaxed);
}

void Runner::WaitForChange() {
  if (!kick_failed_) return changed_.Wait(&mutex_);
  if (!changed_.WaitUntil(&mutex_,
                          std::chrono::steady_clock::now() + kKickAgainAfter)) {
    Kick();
  }
}

void Runner::RequestPause() {
  base::MutexLock lock(&mutex_);
  if (request_ != Request::kRun) return;
  request_ = Request::kPause;
  Kick();
}

bool Runner::WaitPaused() {
  base::MutexLock lock(&mutex_);
  while (phase_ == Phase::kRunning && request_ != Request::kRun) {
    WaitForChange();
  }
  return phase_ == Phase::kEnded || request_ != Request::kRun ||
         (phase_ == Phase::kNew && !claimed_);
}

void Runner::KickAgain() {
  base::MutexLock lock(&mutex_);
  if (kick_failed_) Kick();
}

bool Runner::Pause() {
  RequestPause();
  return WaitPaused();
}

void Runner::Resume() {
  base::MutexLock lock(&mutex_);
  if (request_ != Request::kPause) return;
  request_ = Request::kRun;
  changed_.SignalAll();
}

void Runner::RequestStop() {
  base::MutexLock lock(&mutex_);
  if (request_ == Request::kStop) return;
  request_ = Request::kStop;
  Kick();
  changed_.SignalAll();
}

RunEnd Runner::Stop() {
  RequestStop();
  return Wait();
}

RunEnd Runner::Wait() {
  {
    base::MutexLock lock(&mutex_);
    while (claimed_ && phase_ != Phase::kEnded) WaitForChange();
  }
  Join();
  return end().value_or(RunEnd{});
}

void Runner::Join() {
  base::MutexLock lock(&join_mutex_);
  if (!thread_.has_value()) return;
  pthread_join(*thread_, nullptr);
  thread_.reset();
}

std::optional<RunEnd> Runner::end() const {
  base::MutexLock lock(&mutex_);
  return end_;
}

bool Runner::paused() const {
  base::MutexLock lock(&mutex_);
  if (phase_ == Phase::kEnded || !claimed_) return true;
  return phase_ != Phase::kRunning && request_ != Request::kRun;
}

// --- the vCPU's thread ---

RunEnd Runner::Loop() {
  std::optional<RunEnd> end = Attend();
  while (!end.has_value()) {
    end = attention_.load(std::memory_order_acquire) ? Attend() : Step();
  }
  return *std::move(end);
}

std::optional<RunEnd> Runner::Attend() {
  if (std::optional<RunEnd> end = CompleteExit()) return end;
  base::MutexLock lock(&mutex_);
  while (request_ == Request::kPause) {
    const bool parks = phase_ != Phase::kParked;
    phase_ = Phase::kParked;
    changed_.SignalAll();
    if (parks && options_.on_park) options_.on_park();
    changed_.Wait(&mutex_);
  }
  if (request_ == Request::kStop) return RunEnd{};
  attention_.store(false, std::memory_order_relaxed);
  vcpu_.SetImmediateExit(false);
  phase_ = Phase::kRunning;
  return std::nullopt;
}

std::optional<RunEnd> Runner::CompleteExit() {
  for (int i = 0; answer_pending_; ++i) {
    if (i == kMaxCompletionEntries) {
      return Fail(RunEnd::Kind::kError, absl::StatusCode::kInternal,
                  "KVM does not take the answer to the last exit");
    }
    vcpu_.SetImmediateExit(true);
    if (std::optional<RunEnd> end = Step()) return end;
  }
  return std::nullopt;
}

std::optional<RunEnd> Runner::Step() {
  generation_ = handler_.PageStateGeneration();
  absl::StatusOr<kvm::RunOutcome> outcome = vcpu_.Run();
  if (!outcome.ok()) return OnRunError(outcome.status());
  no_memory_in_a_row_ = 0;
  switch (outcome->kind) {
    case kvm::RunOutcome::Kind::kInterrupted:
      // Whatever was pending, KVM completed it before it looked for a reason to
      // return.
      answer_pending_ = false;
      counters_.Count(ExitKind::kInterrupted);
      return std::nullopt;
    case kvm::RunOutcome::Kind::kRetry:
      // KVM has slept already: an application processor that was woken up.
      counters_.Count(ExitKind::kRetry);
      return std::nullopt;
    case kvm::RunOutcome::Kind::kExit:
      break;
  }
  answer_pending_ = false;
  return std::visit([this](const auto& exit) { return Handle(exit); },
                    outcome->exit);
}

std::optional<RunEnd> Runner::OnRunError(const absl::Status& error) {
  if (base::StatusErrno(error) == ENOMEM &&
      no_memory_in_a_row_ < options_.no_memory_retries) {
    counters_.Count(ExitKind::kNoMemory);
    std::this_thread::sleep_for(
        std::chrono::milliseconds(uint64_t{1} << no_memory_in_a_row_));
    ++no_memory_in_a_row_;
    return std::nullopt;
  }
  // It names the vCPU and its RIP already.
  RunEnd end = Fail(RunEnd::Kind::kError, error.code(), "");
  end.status = error;
  return end;
}

// --- exits ---

std::optional<RunEnd> Runner::Handle(const kvm::InterruptedExit&) {
  counters_.Count(ExitKind::kInterrupted);
  return std::nullopt;
}

std::optional<RunEnd> Runner::Handle(const kvm::IoExit& exit) {
  answer_pending_ = true;
  bool is_read = exit.direction == kvm::IoExit::Direction::kIn;
  counters_.Count(is_read ? ExitKind::kPortRead : ExitKind::kPortWrite);
  if (is_read) std::memset(exit.data, 0xff, exit.size());
  for (size_t offset = 0; offset < exit.size(); offset += exit.width) {
    uint8_t* element = exit.data + offset;
    if (is_read) {
      handler_.OnPortRead(exit.port, absl::MakeSpan(element, exit.width));
      continue;
    }
    std::optional<RunEnd> end = EndOf(handler_.OnPortWrite(
        exit.port, absl::MakeConstSpan(element, exit.width)));
    if (end.has_value()) return end;
  }
  return std::nullopt;
}

std::optional<RunEnd> Runner::Handle(const kvm::MmioExit& exit) {
  answer_pending_ = true;
  counters_.Count(exit.is_write ? ExitKind::kMmioWrite : ExitKind::kMmioRead);
  if (exit.is_write) {
    return EndOf(handler_.OnMmioWrite(
        exit.address, absl::MakeConstSpan(exit.data, exit.length)));
  }
  std::memset(exit.data, 0xff, exit.length);
  handler_.OnMmioRead(exit.address, absl::MakeSpan(exit.data, exit.length));
  return std::nullopt;
}

std::optional<RunEnd> Runner::Handle(const kvm::HypercallExit& exit) {
  answer_pending_ = true;
  counters_.Count(ExitKind::kHypercall);
  *exit.result = handler_.OnHypercall({exit.number, exit.args, exit.long_mode});
  return std::nullopt;
}

std::optional<RunEnd> Runner::Handle(const kvm::MemoryFaultExit& exit) {
  counters_.Count(ExitKind::kMemoryFault);
  absl::Status status = handler_.OnMemoryFault(exit, generation_);
  if (status.ok()) return std::nullopt;
  return Fail(RunEnd::Kind::kError, status.code(),
              absl::StrCat(kvm::DescribeExit(exit), ": ", status.message()));
}

std::optional<RunEnd> Runner::Handle(const kvm::MsrExit& exit) {
  answer_pending_ = true;
  counters_.Count(exit.is_write ? ExitKind::kMsrWrite : ExitKind::kMsrRead);
  MsrAccess access = {exit.index, exit.is_write, exit.value};
  bool ok = handler_.OnMsr(access);
  *exit.error = ok ? 0 : 1;
  if (ok && !exit.is_write) *exit.result = access.value;
  return std::nullopt;
}

std::optional<RunEnd> Runner::Handle(const kvm::HaltExit&) {
  counters_.Count(ExitKind::kHalt);
  return RunEnd{RunEnd::Kind::kHalted, absl::OkStatus(), ""};
}

std::optional<RunEnd> Runner::Handle(const kvm::ShutdownExit& exit) {
  counters_.Count(ExitKind::kShutdown);
  return Fail(RunEnd::Kind::kGuestShutdown, absl::StatusCode::kAborted,
              kvm::DescribeExit(exit));
}

std::optional<RunEnd> Runner::Handle(const kvm::SystemEventExit& exit) {
  counters_.Count(ExitKind::kSystemEvent);
  if (exit.type == kvm::SystemEventExit::kShutdown ||
      exit.type == kvm::SystemEventExit::kReset) {
    return EndOf(handler_.OnSystemEvent(exit));
  }
  // A crash, a confidential guest that gave up, or what KVM has learnt since.
  return Fail(RunEnd::Kind::kError, absl::StatusCode::kAborted,
              kvm::DescribeExit(exit));
}

std::optional<RunEnd> Runner::Handle(const kvm::InternalErrorExit& exit) {
  counters_.Count(ExitKind::kInternalError);
  RunEnd end = Fail(RunEnd::Kind::kError, absl::StatusCode::kInternal,
                    kvm::DescribeExit(exit));
  if (const std::string bytes = exit.InstructionBytes(); !bytes.empty()) {
    absl::StrAppend(&end.registers, "instruction ", bytes, "\n");
  }
  return end;
}

std::optional<RunEnd> Runner::Handle(const kvm::InterruptWindowExit&) {
  counters_.Count(ExitKind::kOther);
  return std::nullopt;
}

std::optional<RunEnd> Runner::Handle(const kvm::ApicEoiExit& exit) {
  counters_.Count(ExitKind::kApicEoi);
  handler_.OnApicEoi(exit.vector);
  return std::nullopt;
}

template <typename Unexpected>
std::optional<RunEnd> Runner::Handle(const Unexpected& exit) {
  counters_.Count(ExitKind::kOther);
  return Fail(RunEnd::Kind::kError, absl::StatusCode::kInternal,
              kvm::DescribeExit(exit));
}

RunEnd Runner::Fail(RunEnd::Kind kind, absl::StatusCode code,
                    absl::string_view what) const {
  RunEnd end;
  end.kind = kind;
  absl::StatusOr<kvm::Registers> registers = vcpu_.GetRegisters();
  absl::StatusOr<kvm::SpecialRegisters> special = vcpu_.GetSpecialRegisters();
  std::string where = "RIP not readable";
  if (registers.ok()) {
    where = absl::StrCat("at RIP 0x", absl::Hex(registers->rip));
  }
  if (registers.ok() && special.ok()) {
    end.registers = DescribeRegisters(*registers, *special);
    if (kind == RunEnd::Kind::kGuestShutdown &&
        LooksReset(*registers, *special)) {
      where = "KVM reset the vCPU, RIP is lost";
      absl::StrAppend(&end.registers,
                      "(KVM reset this vCPU at the triple fault: these are not "
                      "the registers it faulted with)\n");
    }
  }
  end.status = absl::Status(
      code, absl::StrCat("vCPU ", options_.index, ": ", what, ", ", where));
  return end;
}

}  // namespace cloister::vcpu
