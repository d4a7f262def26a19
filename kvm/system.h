// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_SYSTEM_H_
#define CLOISTER_KVM_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"
#include "cloister/kvm/capability.h"
#include "cloister/kvm/registers.h"
#include "cloister/kvm/syscalls.h"
#include "cloister/kvm/vm.h"
#include "cloister/kvm/vm_type.h"

namespace cloister::kvm {

// The KVM device: what this host offers, and where VMs come from. Thread-safe.
class System {
 public:
  // Opens `path`, close-on-exec, and checks the API version. `syscalls` must
  // outlive the System and all that comes from it. Errors, one line that says
  // what to do: NotFound (no such device, or no KVM behind it),
  // PermissionDenied, Unimplemented (not the API version 12, or not KVM).
  static absl::StatusOr<System> Open(Syscalls& syscalls = RealSyscalls(),
                                     const char* path = "/dev/kvm");
  // The same with a device that is open already; `path` is for messages.
  static absl::StatusOr<System> Adopt(base::UniqueFd fd,
                                      Syscalls& syscalls = RealSyscalls(),
                                      const char* path = "/dev/kvm");

  int fd() const { return fd_.get(); }

  // KVM_GET_API_VERSION's answer: 12.
  int api_version() const { return api_version_; }

  // KVM_CHECK_EXTENSION's answer; 0 for what this KVM does not know. A VM may
  // answer differently: see Vm::CheckExtension.
  int CheckExtension(Capability capability) const;

  // How many vCPUs one VM may have, at least 1.
  int MaxVcpus() const;

  // Size of a vCPU's run page mapping, in bytes (KVM_GET_VCPU_MMAP_SIZE).
  absl::StatusOr<size_t> VcpuMmapSize() const;

  // Every CPUID leaf that KVM and this CPU can give a guest
  // (KVM_GET_SUPPORTED_CPUID).
  absl::StatusOr<std::vector<CpuidEntry>> SupportedCpuid() const;

  // The MSRs that make up a guest's state (KVM_GET_MSR_INDEX_LIST).
  absl::StatusOr<std::vector<uint32_t>> MsrIndexList() const;

  // The MSRs that describe this CPU's features, and their values
  // (KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_GET_MSRS; Linux 4.17).
  absl::StatusOr<std::vector<MsrEntry>> FeatureMsrs() const;

  // A new VM without memory, vCPUs and interrupt controllers. Retries EINTR.
  // Unimplemented if this KVM does not offer `type`.
  absl::StatusOr<Vm> CreateVm(VmType type) const;

 private:
  System(Syscalls& syscalls, base::UniqueFd fd, int api_version)
      : syscalls_(&syscalls), fd_(std::move(fd)), api_version_(api_version) {}
  int Ioctl(unsigned long request, uintptr_t argument) const;
  absl::StatusOr<std::vector<uint32_t>> IndexList(unsigned long request,
                                                  const char* name) const;

  Syscalls* syscalls_;
  base::UniqueFd fd_;
  int api_version_;
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_SYSTEM_H_
