// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/measure_command.h"

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/status_macros.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/run_config.h"
#include "cloister/confidential/measurement.h"
#include "cloister/confidential/measurement_json.h"
#include "cloister/vmm/launch_plan.h"

namespace cloister::cli {
namespace {

absl::StatusOr<std::string> MeasurementText(const vmm::VmConfig& config) {
  if (config.confidential.backend == confidential::BackendChoice::kOff) {
    return absl::InvalidArgumentError(
        "--confidential off: only confidential guests have a launch digest");
  }
  ASSIGN_OR_RETURN(vmm::LaunchPlan plan,
                   vmm::PlanLaunch(config, vmm::ConfidentialLaunch()));
  ASSIGN_OR_RETURN(confidential::MeasurementReport report,
                   confidential::Measure(*plan.shim));
  return confidential::MeasurementJson(report);
}

}  // namespace

int MeasureCommand(const RunOptions& options, base::Logger& log) {
  RunOptions whole = options;
  absl::Status status = ApplyConfigFile(&whole);
  if (!status.ok()) {
    log.Error(status.message());
    return kExitError;
  }
  absl::StatusOr<std::string> text = MeasurementText(whole.config);
  if (!text.ok()) {
    log.Error(text.status().message());
    return kExitError;
  }
  std::fputs(text->c_str(), stdout);
  return kExitOk;
}

}  // namespace cloister::cli
