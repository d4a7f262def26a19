// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/device_update.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "cloister/api/vm_config.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/rate_limiter.h"

namespace cloister::api {
namespace {

constexpr uint64_t kPageBytes = 4096;

devices::RateLimiterUpdate LimitIn(const Json& change, const char* name) {
  devices::RateLimiterUpdate update;
  if (!change.contains(name)) return update;
  const Json& limit = change[name];
  if (limit.contains("bandwidth")) {
    update.bandwidth = TokenBucketFromJson(limit["bandwidth"]);
  }
  if (limit.contains("ops")) {
    update.operations = TokenBucketFromJson(limit["ops"]);
  }
  return update;
}

absl::Status UpdateDrive(vmm::DeviceControl& devices, absl::string_view id,
                         const Json& change) {
  vmm::DiskUpdate update;
  if (change.contains("path_on_host")) {
    update.path = change["path_on_host"].get<std::string>();
  }
  update.limit = LimitIn(change, "rate_limiter");
  return devices.UpdateDisk(id, update);
}

absl::Status UpdateStatistics(vmm::DeviceControl& devices, const Json& change) {
  const std::chrono::seconds interval(
      change["stats_polling_interval_s"].get<int64_t>());
  ASSIGN_OR_RETURN(vmm::BalloonStatus balloon, devices.Balloon());
  const bool on = balloon.stats_interval.count() > 0;
  if (on != (interval.count() > 0)) {
    return absl::FailedPreconditionError(
        on ? "stats_polling_interval_s: statistics cannot be turned off once "
             "the VM runs"
           : "stats_polling_interval_s: statistics cannot be turned on once "
             "the VM runs");
  }
  return devices.SetBalloonStatsInterval(interval);
}

}  // namespace

absl::Status UpdateDevice(vmm::DeviceControl& devices, DeviceKind kind,
                          absl::string_view id, const Json& change) {
  switch (kind) {
    case DeviceKind::kDrive:
      return UpdateDrive(devices, id, change);
    case DeviceKind::kNetwork:
      return devices.UpdateNet(id, {LimitIn(change, "rx_rate_limiter"),
                                    LimitIn(change, "tx_rate_limiter")});
    case DeviceKind::kBalloon:
      return devices.SetBalloonTarget(change["amount_mib"].get<uint64_t>()
                                      << 20);
    case DeviceKind::kBalloonStatistics:
      return UpdateStatistics(devices, change);
  }
  return absl::InternalError("no such kind of device");
}

absl::StatusOr<Json> BalloonStatisticsJson(const vmm::DeviceControl& devices) {
  ASSIGN_OR_RETURN(vmm::BalloonStatus balloon, devices.Balloon());
  if (balloon.stats_interval.count() == 0) {
    return absl::FailedPreconditionError(
        "the balloon has no statistics: stats_polling_interval_s is 0");
  }
  Json json = {{"target_pages", balloon.target / kPageBytes},
               {"actual_pages", balloon.actual / kPageBytes},
               {"target_mib", balloon.target >> 20},
               {"actual_mib", balloon.actual >> 20}};
  for (const auto& [name, value] : balloon.guest) json[name] = value;
  return json;
}

}  // namespace cloister::api
