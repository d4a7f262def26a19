// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_HOST_CPUID_POLICY_H_
#define CLOISTER_VCPU_HOST_CPUID_POLICY_H_

#include "cloister/kvm/vm.h"
#include "cloister/vcpu/cpuid_policy.h"

namespace cloister::vcpu {

// The default policy with what `vm`'s KVM says it can do beyond the CPUID that
// it lists: the TSC-deadline timer, if its local APIC has one
// (KVM_CHECK_EXTENSION of TSC_DEADLINE_TIMER; cpuid.rst leaves the bit to the
// monitor). For VMs with an in-kernel local APIC. Never fails: what KVM does
// not know is off.
CpuidPolicy HostCpuidPolicy(const kvm::Vm& vm);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_HOST_CPUID_POLICY_H_
