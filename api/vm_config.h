// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_VM_CONFIG_H_
#define CLOISTER_API_VM_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/vmm/config.h"

namespace cloister::api {

// The VM that `config`, a ConfigStore's object, describes. vmm::ValidateConfig
// judges it.
absl::StatusOr<vmm::VmConfig> VmConfigFromJson(const Json& config,
                                               const std::string& id);

// What standard input and output are in the guest that `config` describes:
// "serial", "virtio" or "none".
std::string ConsoleOf(const Json& config);

// The section "memory-policy" of such an object.
memory::ConversionPolicy PolicyFromJson(const Json& json);

// A TokenBucket of the schema. As Firecracker has it a size or a refill time of
// 0 is no limit.
devices::TokenBucketConfig TokenBucketFromJson(const Json& json);

// The inverse for a VM that was described on the command line: the text of a
// --config-file. `console` is as ConsoleOf returns it.
std::string ConfigText(const vmm::VmConfig& config, absl::string_view console);

}  // namespace cloister::api

#endif  // CLOISTER_API_VM_CONFIG_H_
