// SPDX-License-Identifier: Apache-2.0
//
// The ioctl layer alone: opens /dev/kvm and makes a VM.
#include <cstdio>
#include <string>

#include "absl/status/statusor.h"
#include "cloister/kvm/system.h"

namespace kvm = cloister::kvm;

int main() {
  absl::StatusOr<kvm::System> system = kvm::System::Open();
  if (!system.ok()) {
    std::printf("no KVM here: %s\n",
                std::string(system.status().message()).c_str());
    // One line that names the device is all that can be asked of it then.
    return system.status().message().find("/dev/kvm") == std::string::npos;
  }
  absl::StatusOr<kvm::Vm> vm = system->CreateVm(kvm::VmType::kDefault);
  if (!vm.ok()) {
    std::printf("%s\n", vm.status().ToString().c_str());
    return 1;
  }
  std::printf("KVM API %d, up to %d vCPUs, guest_memfd: %d\n",
              system->api_version(), system->MaxVcpus(),
              system->CheckExtension(kvm::Capability::kGuestMemfd));
  return system->MaxVcpus() >= 1 ? 0 : 1;
}
