// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_DOCTOR_COMMAND_H_
#define CLOISTER_CLI_DOCTOR_COMMAND_H_

#include <string>

#include "cloister/cli/options.h"
#include "cloister/vmm/host_report.h"

namespace cloister::cli {

// `cloister doctor`: examines this host and prints what it found on stdout.
// kExitOk if /dev/kvm can be used (with can_boot_linux: if Linux can run
// there), else kExitError.
int DoctorCommand(const DoctorOptions& options);

// The report for people, and as one JSON object; both end in a newline.
std::string DoctorText(const vmm::HostReport& report);
std::string DoctorJson(const vmm::HostReport& report);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_DOCTOR_COMMAND_H_
