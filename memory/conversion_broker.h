// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_BROKER_H_
#define CLOISTER_MEMORY_CONVERSION_BROKER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/conversion_executor.h"
#include "cloister/memory/conversion_listener.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/conversion_queue.h"
#include "cloister/memory/conversion_request.h"
#include "cloister/memory/conversion_stats.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/pending_private.h"
#include "cloister/memory/shared_view.h"

namespace cloister::memory {

// What a guest is told about its request. Whoever knows the VM type turns it
// into a register value. There is no "try again": Linux never does.
enum class GuestConversionCode {
  kOk,
  kInvalid,       // not pages of RAM, or bad arguments; nothing changed
  kNotPermitted,  // past the limit on shared memory; nothing changed
  kFailed,        // the host failed; `bytes_changed` were converted
};

struct GuestConversion {
  GuestConversionCode code;
  uint64_t bytes_changed;  // in whole chunks from the start of the request
  absl::Status detail;     // for logs
};

// What a vCPU does after a memory fault.
enum class FaultAction {
  kResume,  // run the guest again
  kDeny,    // the guest may not: the VM ends, `detail` says why
  kFail,    // the host could not: the VM ends, `detail` says why
};

struct FaultConversion {
  FaultAction action;
  absl::Status detail;
};

// Why the host thinks that it may convert.
enum class HostConversionReason {
  kBeforeBoot,      // the guest has not run
  kGivenUp,         // the guest put the pages into its balloon
  kExchangeWindow,  // configured, and outside the guest's e820
};

struct ReconcileReport {
  uint64_t shared_bytes = 0;   // found on the shared side of private pages
  uint64_t private_bytes = 0;  // found on the private side of shared pages
  uint64_t freed_bytes = 0;
  uint64_t leased_bytes = 0;  // left alone: pending-private
};

struct ConversionBrokerOptions {
  ConversionPolicy policy;
  // How long one request waits for leases before pages go pending-private.
  std::chrono::nanoseconds lease_wait = std::chrono::milliseconds(20);
  // How long one request waits for busy pages of an in-place backend, and a
  // reset for leases, before it fails.
  std::chrono::nanoseconds busy_wait = std::chrono::seconds(5);
  // Page-aligned RAM where the host may convert at any time.
  std::vector<GuestRange> exchange_windows;
  // Called once, from the thread that hit it, when a page's state became
  // uncertain: the VM must stop. Every later request fails with this status.
  std::function<void(const absl::Status&)> on_fatal;
  // Waits before a request that is too early for the rate limit; tests put
  // their own here. By default it really waits.
  std::function<void(std::chrono::nanoseconds)> delay;
};

// The one place that changes page states. Thread-safe; requests for the same
// pages are served in order of arrival, others at the same time. A call
// returns when its request is done, so a vCPU thread may be held up by the rate
// limit, by leases (for lease_wait), by earlier requests and by Pause().
//
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
  // RAM in `state`, now and after each Reset. FailedPrecondition once the guest
  // started. An error leaves part of it done: the VM cannot be used.
  absl::Status AddRam(const GuestRange& range, PageState state);
  // From now on the host must not take pages from the guest.
  void GuestStarted();
  // The set point of ConversionPolicy::implicit.
  void ArmImplicitPolicy() { implicit_armed_.store(true); }

  // Adds or removes a listener between two requests; not owned. A new one sees
  // later conversions and finds out by itself what is shared already.
  void AddListener(ConversionListener* listener);
  void RemoveListener(ConversionListener* listener);

  // The guest's MAP_GPA_RANGE hypercall; arguments as DecodeMapGpaRange.
  GuestConversion ConvertForGuest(uint64_t gpa, uint64_t npages,
                                  uint64_t attributes);
  // A memory fault on `page`, as translated by the backend; `generation` is
  // PageStateMap::CurrentGeneration() from before the vCPU entered the guest.
  FaultConversion ConvertForFault(GuestAddress page, PageState wanted,
                                  uint64_t generation);
  // The control API; returns the bytes changed. Either every range may be
  // converted, or nothing is: InvalidArgument for what is not convertible RAM,
  // FailedPrecondition ("guest owns this page") where `reason` does not hold,
  // Unavailable while paused. After a later error what was done stays.
  absl::StatusOr<uint64_t> ConvertForHost(absl::Span<const GuestRange> ranges,
                                          PageState to,
                                          HostConversionReason reason);

  // The balloon: the guest will not touch these pages until it takes them
  // back, which gives them the state that they had. InvalidArgument for what
  // is not convertible RAM. Free page reporting ends with its acknowledgement:
  // take the pages back before it.
  absl::Status GuestGaveUp(const GuestRange& range);
  absl::Status GuestTookBack(const GuestRange& range);

  // Holds up requests until Resume; returns once none is under way. A vCPU
  // whose request waits does not run: it counts as paused. Pauses nest.
  void Pause() { queue_.Pause(); }
  void Resume() { queue_.Resume(); }
  // Ends the waits of all requests; they and all later ones fail.
  void Shutdown();

  // With the vCPUs stopped and devices reset: every page back to its first
  // state, without content; requests that wait are cancelled; the guest counts
  // as not started. Unavailable if a lease does not end within busy_wait. May
  // be called again after an error; the guest must not run before it succeeds.
  absl::Status Reset();

  // Frees pages that are backed on the wrong side, and counts them. Requests
  // go on meanwhile. Returns the first error, after trying everything.
  absl::StatusOr<ReconcileReport> Reconcile();

  ConversionStats stats();
  // Why the VM must stop; OK if it need not.
  absl::Status fatal();

 private:
  using Turn = ConversionQueue::Turn;
  struct Request {
    ConversionOrigin origin;
    PageState to;
    absl::Span<const GuestRange> ranges;
  };
  struct Outcome {
    absl::Status status;
    uint64_t bytes = 0;
    bool refused = false;  // nothing was begun
  };

  ConversionBroker(PageStateMap* states, PageBackend* backend, SharedView* view,
                   ConversionBrokerOptions options);

  // These need a turn on the request's pages. Convert asks Admit first; Run
  // converts, `taken` shared bytes having been taken from the budget before.
  Outcome Convert(const Request& request);
  Outcome Run(const Request& request, uint64_t taken);
  Outcome RunBatches(const Request& request);
  absl::StatusOr<RequestEffect> Admit(const Request& request);
  FaultConversion DecideFault(GuestAddress page, PageState wanted,
                              uint64_t generation);
  absl::Status CheckHostMay(const Request& request,
                            HostConversionReason reason);
  bool HostOwns(const GuestRange& range, HostConversionReason reason);
  absl::Status ConvertToMap(const PageStateMap& wanted,
                            const GuestRange& range);
  absl::Status ResetContent(const StateRange& part);
  absl::Status ReconcileWindow(const GuestRange& window,
                               ReconcileReport* report);
  absl::Status ReconcileSide(BackingSide side, const GuestRange& range,
                             ReconcileReport* report);

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
  ConversionQueue queue_;
  LeftoverPages leftovers_;
  PageStateMap initial_;   // what Reset goes back to
  PageStateMap given_up_;  // the state to give back; else not RAM
  std::atomic<bool> started_{false};
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
