// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_CPUID_FEATURES_H_
#define CLOISTER_VCPU_CPUID_FEATURES_H_

#include "cloister/vcpu/cpuid_policy.h"
#include "cloister/vcpu/cpuid_table.h"

namespace cloister::vcpu {

// The steps of BuildCpuid that do not depend on which vCPU asks. Each edits a
// copy of the host's supported leaves in place.

// Keeps the leaves and feature bits that a guest may use with no more support
// than KVM's own; drops the rest.
void FilterFeatures(const CpuidPolicy& policy, CpuidTable& table);

// Makes leaf 0xD agree with the features that are left: state components whose
// feature is hidden go, features whose component is missing go, sizes are
// computed anew. Hides XSAVE with all that needs it when `allow` is false or
// the host's leaf is not consistent.
void FitXsave(bool allow, CpuidTable& table);

// The hypervisor's leaves 0x40000000 and 0x40000001.
void SetHypervisorLeaves(const CpuidPolicy& policy, CpuidTable& table);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_CPUID_FEATURES_H_
