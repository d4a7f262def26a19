// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_VM_TYPE_H_
#define CLOISTER_KVM_VM_TYPE_H_

#include "absl/strings/string_view.h"

namespace cloister::kvm {

// The kinds of x86 VM (KVM_CREATE_VM's argument since Linux 6.8). Each value is
// its bit in the answer to Capability::kVmTypes.
enum class VmType : int {
  kDefault = 0,
  kSwProtected = 1,
  kSev = 2,
  kSevEs = 3,
  kSevSnp = 4,
  kTdx = 5,
};

// "default", "sw-protected", "sev", "sev-es", "sev-snp", "tdx".
absl::string_view VmTypeName(VmType type);

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_VM_TYPE_H_
