// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/topology.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace cloister::vcpu {
namespace {

// Threads of a core and cores of a socket that ValidateTopology accepts; keeps
// the arithmetic below far from overflow.
constexpr uint32_t kMaxPerLevel = 4096;

uint32_t DivideUp(uint32_t value, uint32_t by) {
  return value / by + (value % by != 0);
}

// The number of bits that tell `count` things apart.
uint32_t BitsFor(uint32_t count) {
  uint32_t bits = 0;
  while ((uint64_t{1} << bits) < count) ++bits;
  return bits;
}

uint32_t CoresPerSocket(const CpuTopology& topology) {
  if (topology.cores_per_socket != 0) return topology.cores_per_socket;
  return DivideUp(topology.count, topology.threads_per_core);
}

}  // namespace

uint32_t CpuTopology::threads_per_socket() const {
  return threads_per_core * CoresPerSocket(*this);
}

uint32_t CpuTopology::sockets() const {
  return DivideUp(count, threads_per_socket());
}

uint32_t CpuTopology::core_shift() const { return BitsFor(threads_per_core); }

uint32_t CpuTopology::socket_shift() const {
  return core_shift() + BitsFor(CoresPerSocket(*this));
}

uint32_t CpuTopology::ApicId(uint32_t index) const {
  uint32_t thread = index % threads_per_core;
  uint32_t core = index / threads_per_core % CoresPerSocket(*this);
  uint32_t socket = index / threads_per_socket();
  return socket << socket_shift() | core << core_shift() | thread;
}

absl::Status ValidateTopology(const CpuTopology& topology,
                              const CpuLimits& limits) {
  if (topology.count == 0 || topology.threads_per_core == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a VM needs at least one vCPU and one thread per core, not ",
        topology.count, " and ", topology.threads_per_core));
  }
  if (topology.count > limits.max_vcpus) {
    return absl::InvalidArgumentError(
        absl::StrCat(topology.count, " vCPUs: this host's KVM takes at most ",
                     limits.max_vcpus));
  }
  if (topology.threads_per_core > kMaxPerLevel ||
      topology.cores_per_socket > kMaxPerLevel) {
    return absl::InvalidArgumentError(absl::StrCat(
        "CPU topology of ", topology.threads_per_core, " threads per core and ",
        topology.cores_per_socket, " cores per socket: each level has at most ",
        kMaxPerLevel));
  }
  // Before ApicId: at most 2^12 per level and 2^32 vCPUs could still overflow.
  uint64_t highest_socket = topology.sockets() - 1;
  if ((highest_socket << topology.socket_shift()) >= limits.max_vcpu_id ||
      topology.max_apic_id() >= limits.max_vcpu_id) {
    return absl::InvalidArgumentError(absl::StrCat(
        "CPU topology gives vCPU ", topology.count - 1,
        " an APIC id beyond this host's limit of ", limits.max_vcpu_id));
  }
  return absl::OkStatus();
}

}  // namespace cloister::vcpu
