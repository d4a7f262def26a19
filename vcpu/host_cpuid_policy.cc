// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/host_cpuid_policy.h"

#include "cloister/kvm/capability.h"

namespace cloister::vcpu {

CpuidPolicy HostCpuidPolicy(const kvm::Vm& vm) {
  CpuidPolicy policy;
  policy.tsc_deadline =
      vm.CheckExtension(kvm::Capability::kTscDeadlineTimer) > 0;
  return policy;
}

}  // namespace cloister::vcpu
