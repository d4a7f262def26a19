// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_CONVERSION_BROKER_OPTIONS_H_
#define CLOISTER_MEMORY_CONVERSION_BROKER_OPTIONS_H_

#include <chrono>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/guest_address.h"

namespace cloister::memory {

// What a ConversionBroker is made with. The defaults are those of a VM; the
// callbacks may be empty.
struct ConversionBrokerOptions {
  ConversionPolicy policy;
  // How long one request waits for leases before pages go pending-private.
  std::chrono::nanoseconds lease_wait = std::chrono::milliseconds(20);
  // How long one request waits for busy pages of an in-place backend, and a
  // reset for leases, before it fails.
  std::chrono::nanoseconds busy_wait = std::chrono::seconds(5);
  // Page-aligned memory where the host may convert once the guest runs. It is
  // no RAM of the guest (its e820 does not list it): AddRam refuses it, and
  // AddExchangeWindow alone declares it.
  std::vector<GuestRange> exchange_windows;
  // Called once, from the thread that hit it, when a page's state became
  // uncertain: the VM must stop. Requests that wait, and all later ones, fail
  // with this status, after the call; it must not wait for any of them.
  std::function<void(const absl::Status&)> on_fatal;
  // Runs first on the thread that the broker starts for the ends of leases (a
  // seccomp filter).
  std::function<void()> on_thread_start;
  // Called, with a lock held, whenever another request is held up by a pause
  // (held()); it must not call the broker.
  std::function<void()> on_held;
  // Waits before a request that is too early for the rate limit; tests put
  // their own here, and the limit's clock. By default it really waits.
  std::function<void(std::chrono::nanoseconds)> delay;
  std::function<std::chrono::steady_clock::time_point()> now;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_CONVERSION_BROKER_OPTIONS_H_
