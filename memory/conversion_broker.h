// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_BROKER_H_
#define CLOISTER_MEMORY_CONVERSION_BROKER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/conversion_broker_options.h"
#include "cloister/memory/conversion_executor.h"
#include "cloister/memory/conversion_listener.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/conversion_queue.h"
#include "cloister/memory/conversion_request.h"
#include "cloister/memory/conversion_stats.h"
#include "cloister/memory/conversion_types.h"
#include "cloister/memory/double_backed_tally.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/pending_private.h"
#include "cloister/memory/shared_view.h"

namespace cloister::memory {

// The one place that changes page states. Thread-safe; requests for the same
// pages are served in order of arrival, others at the same time. A call
// returns when its request is done, so a vCPU thread may be held up by the rate
// limit, by leases (for lease_wait), by earlier requests and by Pause().
// Holds no lock while it waits, and calls backend and listeners without one.
class ConversionBroker {
 public:
  // The pointers must outlive the broker. InvalidArgument if the options do
  // not fit together.
  static absl::StatusOr<std::unique_ptr<ConversionBroker>> Create(
      PageStateMap* states, PageBackend* backend, SharedView* view,
      ConversionBrokerOptions options);
  // No request may be under way: call Shutdown and join the vCPUs first.
  ~ConversionBroker();
  ConversionBroker(const ConversionBroker&) = delete;
  ConversionBroker& operator=(const ConversionBroker&) = delete;

  // The builder: declares page-aligned addresses that are not RAM yet to be
  // RAM in `state`, now and after each Reset. FailedPrecondition unless
  // kBuilding; InvalidArgument, changing nothing, for what is not wholly
  // memory (has no slot) or lies in an exchange window. If the backend fails,
  // part of it is done and the VM cannot be used.
  absl::Status AddRam(const GuestRange& range, PageState state);
  // As AddRam, for memory inside one of the configured exchange windows;
  // `state` is kPrivate or kShared.
  absl::Status AddExchangeWindow(const GuestRange& range, PageState state);

  // The phases follow each other in this order (kLaunching may be left out),
  // and Reset goes back to kBuilding. Each change waits for the requests under
  // way and holds up all others, so a request sees one phase from its turn on.
  // Before the first vCPU runs a shim. FailedPrecondition unless kBuilding.
  absl::Status BeginLaunch();
  // The shim has verified the launch: makes what was staged for it private,
  // also while paused, and starts the guest's own life. From a vCPU's thread,
  // while the guest stands still. On an error the phase stays kLaunching and
  // the VM must end; FailedPrecondition in another phase.
  absl::Status FinishLaunch(absl::Span<const GuestRange> staged);
  // From now on the host must not take pages from the guest; for guests that
  // start without a shim. Does nothing once the guest runs or has stopped.
  void GuestStarted();
  // Every vCPU thread has ended: nothing needs the guest's memory any more.
  void GuestStopped();
  ConversionPhase phase() const { return phase_.load(); }
  // The set point of ConversionPolicy::implicit.
  void ArmImplicitPolicy() { implicit_armed_.store(true); }
  // Whether the policy is kDeny and has not come to its set point.
  bool DenialAwaitsSetPoint() const;
  // For requests that come from now on. What is shared beyond a smaller limit
  // stays shared; delays under way are not cut short.
  void SetPolicy(const ConversionPolicy& policy);

  // Between two requests; not owned. A new one sees later conversions and finds
  // out by itself what is shared already.
  void AddListener(ConversionListener* listener);
  void RemoveListener(ConversionListener* listener);

  // The guest's MAP_GPA_RANGE hypercall; arguments as DecodeMapGpaRange. One
  // that makes no sense is delayed and held like any other, and then refused.
  GuestConversion ConvertForGuest(uint64_t gpa, uint64_t npages,
                                  uint64_t attributes);
  // A memory fault on `page`, as translated by the backend; `generation` is
  // PageStateMap::CurrentGeneration() from before the vCPU entered the guest.
  // A stale or needless fault, or one whose wait a Reset ended, just resumes;
  // the first two are free of the rate limit.
  FaultConversion ConvertForFault(GuestAddress page, PageState wanted,
                                  uint64_t generation);
  // The control API; returns the bytes changed. Either every range may be
  // converted, or nothing is: InvalidArgument for what is not convertible RAM,
  // FailedPrecondition ("guest owns this page") where `reason` does not hold
  // and while kLaunching, Unavailable while paused, Aborted if a Reset came
  // first. The shared limit counts from kLaunching on. After a later error what
  // was done stays.
  absl::StatusOr<uint64_t> ConvertForHost(absl::Span<const GuestRange> ranges,
                                          PageState to,
                                          HostConversionReason reason);

  // The balloon: the guest will not touch these pages until it takes them
  // back, which gives them the state that they had. Those that it converts
  // meanwhile, or asks to have as they are, are no longer given up: taking them
  // back changes nothing. InvalidArgument for what is not convertible RAM,
  // FailedPrecondition unless kRunning. Free page reporting ends with its
  // acknowledgement: take the pages back before it.
  absl::Status GuestGaveUp(const GuestRange& range);
  absl::Status GuestTookBack(const GuestRange& range);
  // The same for all that was given up; the first error, after trying all.
  absl::Status GuestTookBackAll();
  // Gives the host the memory behind pages that were given up; their states
  // stay. FailedPrecondition unless all are given up, Unavailable while there
  // is a lease on some.
  absl::Status FreeGivenUp(const GuestRange& range);

  // Holds up requests until Resume; returns once none is under way. A vCPU
  // whose request waits does not run: it counts as paused. Pauses nest; a
  // Resume without one does nothing.
  void Pause() { queue_.Pause(); }
  void Resume() { queue_.Resume(); }
  // The guest's requests that wait, those for the rate limit included. While
  // the broker is paused none of their threads returns.
  size_t held() { return queue_.held(); }
  // Ends all waits; all requests fail. One that is under way stops between two
  // chunks, a Reset does not.
  void Shutdown();

  // With the vCPUs stopped and devices reset: every page back to its first
  // state, without content; requests that wait, and those that came before and
  // are held up by the rate limit, are cancelled (a fault then resumes, the
  // others fail with Aborted); back to kBuilding. Unavailable if a lease does
  // not end within busy_wait. May be called again after an error; the guest
  // must not run before it succeeds.
  absl::Status Reset();

  // Counts pages that are backed on the wrong side, and frees them where no
  // guest can miss them: before it runs, once it has stopped, and while paused
  // if the caller says kAllReported. Beside a guest that is alive it only
  // counts: what looks like a stray may be data that Linux wrote just before it
  // reports the conversion. Requests go on meanwhile.
  // Returns fatal(), else the first error, after trying everything;
  // FailedPrecondition while kLaunching, and for kAllReported of a guest that
  // runs and is not paused.
  absl::StatusOr<ReconcileReport> Reconcile(
      GuestPages pages = GuestPages::kMayBeUnreported);
  // As Reconcile, and frees nothing in any phase: the totals of a VM's end.
  absl::StatusOr<ReconcileReport> CountDoubleBacked();
  // The same without waiting, for stats().double_backed_bytes: looks at as much
  // of RAM as `budget` allows (4 MiB at least, all of it at most), and goes on
  // there when called again. Passes over what a conversion is at work on.
  absl::Status SurveyFor(std::chrono::nanoseconds budget);

  ConversionStats stats();
  // Why the VM must stop; OK if it need not.
  absl::Status fatal();

 private:
  using Turn = ConversionQueue::Turn;
  struct Request {
    ConversionOrigin origin;
    PageState to;
    absl::Span<const GuestRange> ranges;
    bool may_stop = true;  // between two chunks, once the queue is shut down
  };
  struct Outcome {
    absl::Status status;
    uint64_t bytes = 0;
    bool refused = false;  // nothing was begun
  };

  ConversionBroker(PageStateMap* states, PageBackend* backend, SharedView* view,
                   ConversionBrokerOptions options);

  // A turn for a request of `life`; Aborted once that is over.
  absl::StatusOr<Turn> EnterRequest(absl::Span<const GuestRange> ranges,
                                    ConversionQueue::Priority priority,
                                    uint64_t life);
  // Whether a fault is stale or needless, and counted as that.
  bool FaultIsVoid(GuestAddress page, PageState wanted, uint64_t generation);
  absl::Status Declare(const GuestRange& range, PageState state);
  absl::Status CheckGuestRuns() const;

  // These need a turn on the request's pages. Convert looks what the request
  // changes, unless the caller did, and asks Admit; Run converts, `taken`
  // shared bytes having been taken from the budget before.
  Outcome Convert(const Request& request);
  // Convert for the guest: what is as it asked then is not given up any more.
  Outcome ConvertGuests(const Request& request);
  Outcome Convert(const Request& request, absl::StatusOr<RequestEffect> effect);
  Outcome Run(const Request& request, uint64_t taken);
  Outcome RunBatches(const Request& request);
  absl::Status Admit(const Request& request, const RequestEffect& effect);
  FaultConversion DecideFault(GuestAddress page, PageState wanted,
                              uint64_t generation);
  absl::StatusOr<RequestEffect> CheckHostMay(const Request& request,
                                             HostConversionReason reason);
  bool HostOwns(const GuestRange& range, HostConversionReason reason);
  absl::Status ConvertToMap(const PageStateMap& wanted, const GuestRange& range,
                            bool may_stop);
  absl::Status NoteGivenUp(const StateRange& part);
  absl::Status ResetTo(const std::vector<StateRange>& ram);
  absl::Status ResetContent(const StateRange& part);
  absl::Status FreePart(const StateRange& part);
  absl::StatusOr<ReconcileReport> Survey(bool may_free, GuestPages pages);
  // Whether a reconciliation may free; an error if it must not even look.
  absl::StatusOr<bool> MayFree(GuestPages pages);
  absl::Status ReconcileWindow(const GuestRange& window, bool free,
                               ReconcileReport* report);
  absl::Status ReconcileSide(BackingSide side, const GuestRange& range,
                             bool free, ReconcileReport* report);

  // A turn for the broker's own work, which is never refused.
  Turn EnterInner(const GuestRange& range);
  std::vector<StateRange> Ram() const;  // as declared
  void DelayForRate();
  std::vector<ConversionListener*> Listeners();
  absl::Status Refuse(absl::Status status);
  void SetFatal(const absl::Status& status);

  PageStateMap* const states_;
  PageBackend* const backend_;
  SharedView* const view_;
  const ConversionBrokerOptions options_;

  ConversionStatsCollector stats_;
  ConversionRateLimiter rate_;
  SharedBudget budget_;
  std::atomic<ImplicitPolicy> implicit_;
  ConversionQueue queue_;
  LeftoverPages leftovers_;
  DoubleBackedTally double_backed_;
  PageStateMap initial_;   // what Reset goes back to
  PageStateMap given_up_;  // the state to give back; else not RAM
  std::atomic<ConversionPhase> phase_{ConversionPhase::kBuilding};
  std::atomic<uint64_t> life_{0};  // of the guest: one more with each Reset
  std::atomic<bool> implicit_armed_{false};
  std::atomic<uint64_t> next_set_id_{1};

  base::Mutex mutex_;
  std::vector<ConversionListener*> listeners_ ABSL_GUARDED_BY(mutex_);
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<PendingPrivate> pending_;  // its thread uses the others
  std::unique_ptr<ConversionExecutor> executor_;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_BROKER_H_
