// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_CPUID_TOPOLOGY_H_
#define CLOISTER_VCPU_CPUID_TOPOLOGY_H_

#include <cstdint>

#include "cloister/vcpu/cpuid_table.h"
#include "cloister/vcpu/topology.h"

namespace cloister::vcpu {

// The step of BuildCpuid that tells vCPU `index` who and where it is: leaves 1,
// 4, 0xB and 0x1F; on AMD 0x80000001, 0x80000008, 0x8000001D and 0x8000001E.
void SetTopologyLeaves(const CpuTopology& topology, uint32_t index,
                       CpuidTable& table);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_CPUID_TOPOLOGY_H_
