// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_MACHINE_H_
#define CLOISTER_API_MACHINE_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/api/json.h"
#include "cloister/memory/conversion_stats.h"
#include "cloister/memory/conversion_types.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::api {

// Counters of one thing: a vCPU's exits by kind, a device.
struct CounterGroup {
  std::string name;
  std::vector<std::pair<std::string, uint64_t>> counters;
  // What goes up and down: as it is now.
  std::vector<std::pair<std::string, uint64_t>> sizes = {};
};

struct MachineStats {
  std::vector<CounterGroup> vcpus;
  std::vector<CounterGroup> devices;
  // Bytes of shared memory that devices use at this moment; absent before the
  // start.
  std::optional<uint64_t> leased_bytes;
  // Absent where nothing is private.
  std::optional<memory::ConversionStats> conversions;
  // Phases of the start, and when each was reached after the process's start.
  std::vector<std::pair<std::string, std::chrono::nanoseconds>> boot;
};

// A part of the address space that is not RAM.
struct AddressWindow {
  std::string name;
  memory::GuestRange range;
};

enum class Button { kPower, kCtrlAltDel };
enum class DeviceKind { kDrive, kNetwork, kBalloon, kBalloonStatistics };

// The one VM that a controller controls. Before Start there is none: then
// every call but Start, Measurement, Stats and Stop fails with
// FailedPrecondition.
//
// The first group may take its time (files, conversions, leases); the
// controller calls it from its worker, one at a time. The second one is called
// from any thread, at any time, and does not wait.
class Machine {
 public:
  virtual ~Machine() = default;

  // Builds the VM that `config` describes (as GET /vm/config prints it) and
  // starts it. Errors name the option or the file.
  virtual absl::Status Start(const Json& config) = 0;
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // As memory::ConversionBroker::ConvertForHost, but all or nothing: an error
  // that says otherwise names what stays converted.
  virtual absl::StatusOr<uint64_t> Convert(
      absl::Span<const memory::GuestRange> ranges, memory::PageState to,
      memory::HostConversionReason reason) = 0;
  // Changes a device: the body of PATCH. NotFound if there is no such device.
  virtual absl::Status Update(DeviceKind kind, absl::string_view id,
                              const Json& change) = 0;
  virtual absl::StatusOr<Json> BalloonStatistics() = 0;
  // What conversions may do from now on: the section "memory-policy" of
  // GET /vm/config.
  virtual absl::Status SetPolicy(const Json& policy) = 0;
  // The launch digest and its inputs (confidential::MeasurementJson); of the
  // VM that was started, whatever was changed since, or of what `config` would
  // start.
  virtual absl::StatusOr<std::string> Measurement(const Json& config) = 0;

  virtual absl::Status Press(Button button) = 0;
  // Ends the VM, if it runs.
  virtual void Stop() = 0;
  // Looks at the guest's memory again for Stats().conversions: tens of
  // milliseconds at most, so a big guest takes several calls.
  virtual void LookAtMemory() = 0;
  virtual MachineStats Stats() = 0;
  // Null before Start; stays until the machine is destroyed.
  virtual const memory::PageStateMap* states() = 0;
  // The backend in use; empty before Start.
  virtual std::string Backend() = 0;
  virtual std::vector<AddressWindow> Windows() = 0;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_MACHINE_H_
