// SPDX-License-Identifier: Apache-2.0
//
// What callers of the conversion broker say to it and hear from it.
#ifndef CLOISTER_MEMORY_CONVERSION_TYPES_H_
#define CLOISTER_MEMORY_CONVERSION_TYPES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace cloister::memory {

// Where a VM stands, which decides what the host may do to its pages.
enum class ConversionPhase {
  kBuilding,   // the guest has not run: the host may convert anything
  kLaunching,  // the shim runs: some pages are shared in the map while it works
               // on their private side already, so only the guest converts
  kRunning,    // the guest's memory is its own
  kStopped,    // no vCPU will run any more
};

// "building", "launching", "running", "stopped".
absl::string_view ConversionPhaseName(ConversionPhase phase);

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

// What the caller of Reconcile knows of a guest that is alive.
enum class GuestPages {
  // The guest may have written to the other side of a page and not have told
  // yet: Linux does so at boot and whenever it converts memory.
  kMayBeUnreported,
  // The caller has stopped every vCPU, called Pause(), and knows from the guest
  // that it has told of everything.
  kAllReported,
};

struct ReconcileReport {
  uint64_t shared_bytes = 0;   // found on the shared side of private pages
  uint64_t private_bytes = 0;  // found on the private side of shared pages
  uint64_t freed_bytes = 0;
  uint64_t leased_bytes = 0;  // left alone: pending-private
  bool counted_only = false;  // some was left alone: a guest may need it

  uint64_t double_backed_bytes() const { return shared_bytes + private_bytes; }
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_TYPES_H_
