// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_TOPOLOGY_H_
#define CLOISTER_VCPU_TOPOLOGY_H_

#include <cstdint>

#include "absl/status/status.h"

namespace cloister::vcpu {

// How a VM's vCPUs are arranged: `count` vCPUs fill threads, then cores, then
// sockets, in the order of their index; the last socket may be partly filled.
struct CpuTopology {
  uint32_t count = 1;
  uint32_t threads_per_core = 1;
  // 0: every core in one socket.
  uint32_t cores_per_socket = 0;

  // What follows holds for a topology that ValidateTopology accepts.
  uint32_t threads_per_socket() const;
  uint32_t sockets() const;
  // Bits of an APIC id below the core's, and below the socket's, number (SDM
  // vol. 3A 10.9.1: each level is padded to a power of two).
  uint32_t core_shift() const;
  uint32_t socket_shift() const;

  // The x2APIC id of vCPU `index`. KVM takes a vCPU's APIC id from the number
  // it is created with, so this is that number too, and what the MADT lists.
  uint32_t ApicId(uint32_t index) const;
  uint32_t max_apic_id() const { return ApicId(count - 1); }

  // True if an APIC id does not fit xAPIC's 8 bits, of which 255 is broadcast.
  // The VM then needs KVM's 32-bit x2APIC ids, without the broadcast quirk, and
  // MADT x2APIC entries.
  bool needs_x2apic_ids() const { return max_apic_id() >= 255; }
};

// What the host's KVM accepts (its MAX_VCPUS and MAX_VCPU_ID capabilities).
struct CpuLimits {
  uint32_t max_vcpus = 1;
  uint32_t max_vcpu_id = 1;  // Exclusive.
};

// InvalidArgument, naming the number, if a field is zero or over the limits.
absl::Status ValidateTopology(const CpuTopology& topology,
                              const CpuLimits& limits);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_TOPOLOGY_H_
