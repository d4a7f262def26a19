// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_DEVICE_UPDATE_H_
#define CLOISTER_API_DEVICE_UPDATE_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/machine.h"
#include "cloister/vmm/device_control.h"

namespace cloister::api {

// Does what the body of a PATCH of a device asks for, which the schema has
// checked: Machine::Update. Files are opened on the caller's thread. Errors of
// vmm::DeviceControl; FailedPrecondition to turn statistics on or off.
absl::Status UpdateDevice(vmm::DeviceControl& devices, DeviceKind kind,
                          absl::string_view id, const Json& change);

// GET /balloon/statistics: what the guest has not said is absent. NotFound
// without a balloon, FailedPrecondition for one without statistics.
absl::StatusOr<Json> BalloonStatisticsJson(const vmm::DeviceControl& devices);

}  // namespace cloister::api

#endif  // CLOISTER_API_DEVICE_UPDATE_H_
