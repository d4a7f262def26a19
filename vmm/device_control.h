// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_DEVICE_CONTROL_H_
#define CLOISTER_VMM_DEVICE_CONTROL_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/devices/rate_limiter.h"

namespace cloister::vmm {

using NamedValues = std::vector<std::pair<std::string, uint64_t>>;

// What one device has counted, as metrics show it.
struct DeviceCounters {
  // The kind and the id: "block_disk0", "net_eth0", "vsock", "entropy",
  // "balloon", "console".
  std::string name;
  NamedValues counters;  // since the last launch; these only grow
  NamedValues sizes;     // as they are now
};

// What to change of a disk; what is absent stays.
struct DiskUpdate {
  // Another image, or the same one, whose size is then read anew.
  std::optional<std::string> path;
  devices::RateLimiterUpdate limit;
};

// What to change of a network interface.
struct NetUpdate {
  devices::RateLimiterUpdate rx_limit;  // towards the guest
  devices::RateLimiterUpdate tx_limit;
};

struct BalloonStatus {
  uint64_t target = 0;                     // bytes that the guest is to give up
  uint64_t actual = 0;                     // bytes that it says it has given up
  std::chrono::seconds stats_interval{0};  // 0: no statistics
  // What the guest said last of its memory, as far as it did: "free_memory"
  // and so on, by Firecracker's names.
  NamedValues guest;
};

// Changes the devices of a VM that runs, whatever its guest does meanwhile.
//
// Thread-safe. Nothing here waits for a guest or a device; UpdateDisk opens
// files, and takes as long as the host does for that. NotFound, naming kind and
// id, for a device that is not there.
class DeviceControl {
 public:
  virtual ~DeviceControl() = default;

  // InvalidArgument, changing nothing, for an invalid limit; errors of
  // Blk::UpdateFile, also changing nothing.
  virtual absl::Status UpdateDisk(absl::string_view id,
                                  const DiskUpdate& update) = 0;
  // InvalidArgument, changing nothing, for an invalid limit.
  virtual absl::Status UpdateNet(absl::string_view id,
                                 const NetUpdate& update) = 0;
  // InvalidArgument above the guest's RAM, or for parts of pages.
  virtual absl::Status SetBalloonTarget(uint64_t bytes) = 0;
  // InvalidArgument for a negative interval, or one of more than a day.
  virtual absl::Status SetBalloonStatsInterval(
      std::chrono::seconds interval) = 0;
  virtual absl::StatusOr<BalloonStatus> Balloon() const = 0;
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_DEVICE_CONTROL_H_
