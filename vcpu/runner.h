// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_RUNNER_H_
#define CLOISTER_VCPU_RUNNER_H_

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/mutex.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/vcpu_fd.h"
#include "cloister/vcpu/exit_counters.h"
#include "cloister/vcpu/exit_handler.h"

namespace cloister::vcpu {

// How a vCPU's run ended.
struct RunEnd {
  enum class Kind {
    kStopped,        // RequestStop.
    kHalted,         // HLT, without an in-kernel local APIC to wake it.
    kReset,          // The guest asked to be reset (Verdict).
    kPowerOff,       // The guest asked to be switched off (Verdict).
    kGuestShutdown,  // Triple fault.
    kError,
  };
  Kind kind = Kind::kStopped;
  // With kGuestShutdown and kError, one line: the vCPU, the exit by name, guest
  // address and RIP where known, and the reason.
  absl::Status status;
  // With these two, the registers (DescribeRegisters) where readable, and the
  // instruction that could not be emulated. After a triple fault KVM on AMD has
  // reset the vCPU: the text then says so.
  std::string registers;
};
absl::string_view RunEndName(RunEnd::Kind kind);  // "stopped", "power off", ...

struct RunnerOptions {
  // For messages and the thread's name ("vcpu3").
  uint32_t index = 0;
  // Interrupts KVM_RUN. The application has installed a handler that does
  // nothing (InstallKickHandler); several VMs may share it. It must not be
  // blocked by the handler's code.
  int kick_signal = 0;
  // How often in a row KVM_RUN may fail with ENOMEM, each time after twice the
  // wait of the time before, from 1 ms, before that ends the vCPU.
  int no_memory_retries = 6;
  // Runs first on the thread of Start(), if set (a seccomp filter).
  std::function<void()> on_start = {};
  // Called on the vCPU's thread each time it has parked, if set, with a lock
  // held: it must not call the Runner.
  std::function<void()> on_park = {};
};

// Runs one vCPU and hands its exits to an ExitHandler, on a thread of its own
// (Start) or on the caller's (RunHere); once only.
//
// Kick protocol: a request is stored, then immediate_exit set, then the signal
// sent, all under the lock under which the vCPU's thread, and only that, clears
// immediate_exit after it has seen the request. So KVM_RUN that has not begun
// returns at once, KVM_RUN that has is interrupted, and none is lost.
//
// An exit whose answer KVM has yet to take (port, MMIO, hypercall, MSR) is
// completed, by entering KVM with immediate_exit set, before the vCPU counts as
// paused or stopped: its registers are then whole instructions.
//
// Thread-safe. RequestPause, RequestStop, Resume, counters and end never wait
// and may be called from the handler and the callback.
class Runner {
 public:
  // Called once, on the vCPU's thread, without locks, when the run has ended
  // for whatever reason; the place to stop the VM's other vCPUs. The Runner
  // must not be destroyed from it.
  using EndCallback = std::function<void(const RunEnd&)>;

  // `handler` must outlive the Runner; `on_end` may be empty.
  Runner(kvm::VcpuFd vcpu, ExitHandler& handler, RunnerOptions options,
         EndCallback on_end);
  // Stops and joins.
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  // Starts the thread, paused if RequestPause came before. FailedPrecondition
  // if it was started before, or the kick signal has no handler;
  // ResourceExhausted if the host gives no thread.
  absl::Status Start();
  // Runs on this thread until the end. FailedPrecondition as above.
  absl::StatusOr<RunEnd> RunHere();

  // Asks the vCPU to leave guest mode and park. For a whole VM ask all first,
  // then wait for all.
  void RequestPause();
  // Waits until the vCPU is parked, has ended or was never started: it is out
  // of KVM_RUN and stays out until Resume. False if a Resume came in between.
  // Not from the vCPU's thread.
  bool WaitPaused();
  // Both.
  bool Pause();
  // For who waits in another way: sends the signal of RequestPause or
  // RequestStop once more, should the host not have taken it.
  void KickAgain();
  // Lets a parked vCPU go on, or withdraws a RequestPause.
  void Resume();

  // Asks the run to end as kStopped; final, also when it comes before Start.
  void RequestStop();
  // RequestStop, then Wait.
  RunEnd Stop();
  // Waits for the end, and for the thread of Start() to be gone, callback
  // included. kStopped if it was never started. Not from the vCPU's thread.
  RunEnd Wait();

  // The end, once there is one.
  std::optional<RunEnd> end() const;
  // True while parked, and before the start and after the end.
  bool paused() const;
  ExitCounters::Snapshot counters() const { return counters_.Read(); }
  // Signals sent so far.
  uint64_t kicks() const { return kicks_.load(std::memory_order_relaxed); }
  uint32_t index() const { return options_.index; }

  // For the vCPU's state; only while paused() and nobody resumes it.
  kvm::VcpuFd& vcpu() { return vcpu_; }

 private:
  enum class Request { kRun, kPause, kStop };
  enum class Phase { kNew, kRunning, kParked, kEnded };

  // Claims the one run there is.
  absl::Status Claim();
  static void* ThreadMain(void* runner);
  // The thread's body.
  RunEnd RunToEnd();
  RunEnd Loop();
  // One KVM_RUN and what follows from it; the end, if it is one.
  std::optional<RunEnd> Step();
  // Serves the pending request: parks, or tells that it is time to stop.
  std::optional<RunEnd> Attend();
  // Enters KVM until it has taken the answer of the last exit.
  std::optional<RunEnd> CompleteExit();
  std::optional<RunEnd> OnRunError(const absl::Status& error);
  void Kick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits for a change, and kicks again where the last signal was not sent.
  void WaitForChange() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Join();

  // One overload per exit: the end, or nothing to run on.
  std::optional<RunEnd> Handle(const kvm::InterruptedExit& exit);
  std::optional<RunEnd> Handle(const kvm::IoExit& exit);
  std::optional<RunEnd> Handle(const kvm::MmioExit& exit);
  std::optional<RunEnd> Handle(const kvm::HypercallExit& exit);
  std::optional<RunEnd> Handle(const kvm::MemoryFaultExit& exit);
  std::optional<RunEnd> Handle(const kvm::MsrExit& exit);
  std::optional<RunEnd> Handle(const kvm::HaltExit& exit);
  std::optional<RunEnd> Handle(const kvm::ShutdownExit& exit);
  std::optional<RunEnd> Handle(const kvm::SystemEventExit& exit);
  std::optional<RunEnd> Handle(const kvm::InternalErrorExit& exit);
  std::optional<RunEnd> Handle(const kvm::InterruptWindowExit& exit);
  std::optional<RunEnd> Handle(const kvm::ApicEoiExit& exit);
  // FailEntry, Debug, Unknown, Other.
  template <typename Unexpected>
  std::optional<RunEnd> Handle(const Unexpected& exit);

  // An end with this vCPU's name, RIP and registers added.
  RunEnd Fail(RunEnd::Kind kind, absl::StatusCode code,
              absl::string_view what) const;

  ExitHandler& handler_;
  const RunnerOptions options_;
  const EndCallback on_end_;

  // Used by the vCPU's thread while it runs, by the owner while it is parked;
  // the lock's hand-over orders the two.
  kvm::VcpuFd vcpu_;
  // The vCPU's thread only.
  bool answer_pending_ = false;
  uint64_t generation_ = 0;
  int no_memory_in_a_row_ = 0;

  ExitCounters counters_;
  std::atomic<uint64_t> kicks_ = 0;
  // True while `request_` waits to be seen: saves the loop the lock.
  std::atomic<bool> attention_ = false;

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  Request request_ ABSL_GUARDED_BY(mutex_) = Request::kRun;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kNew;
  bool claimed_ ABSL_GUARDED_BY(mutex_) = false;
  bool kick_failed_ ABSL_GUARDED_BY(mutex_) = false;
  // Valid in kRunning.
  pthread_t runs_on_ ABSL_GUARDED_BY(mutex_) = {};
  std::optional<RunEnd> end_ ABSL_GUARDED_BY(mutex_);

  base::Mutex join_mutex_;
  std::optional<pthread_t> thread_ ABSL_GUARDED_BY(join_mutex_);
};

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_RUNNER_H_
