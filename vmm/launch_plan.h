// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_LAUNCH_PLAN_H_
#define CLOISTER_VMM_LAUNCH_PLAN_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/launch_image.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/memory/guest_address.h"
#include "cloister/vcpu/topology.h"
#include "cloister/vmm/config.h"

namespace cloister::vmm {

// The topology that `config` asks for; vcpu::ValidateTopology judges it.
vcpu::CpuTopology TopologyOf(const CpuConfig& config);

// What a VM starts from, as far as its configuration decides it. `cloister
// measure` makes one without /dev/kvm, a run makes the same one.
struct LaunchPlan {
  vcpu::CpuTopology topology;
  std::vector<memory::GuestRange> ram;  // that the guest is told of
  // With the exchange windows; ascending.
  std::vector<memory::GuestRange> all_ram;
  boot::LaunchImage image;
  // Only for confidential guests: how the shim takes the image over.
  std::optional<shim::LaunchOptions> shim;
};

// What the host decides about the start of a confidential guest: nothing that
// is measured.
struct ConfidentialLaunch {
  // Position of the C-bit, which the shim checks against CPUID.
  int c_bit = 47;
};

// Loads the files of `config` and lays the guest out. Without `confidential`
// the plan has no shim. Errors of ValidateConfig and boot::LoadLinux,
// InvalidArgument for an exchange window where none may be, and
// ResourceExhausted if there is no room for the shim.
absl::StatusOr<LaunchPlan> PlanLaunch(
    const VmConfig& config,
    const std::optional<ConfidentialLaunch>& confidential);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_LAUNCH_PLAN_H_
