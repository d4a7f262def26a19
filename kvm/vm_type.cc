// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/vm_type.h"

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {

static_assert(static_cast<int>(VmType::kDefault) == KVM_X86_DEFAULT_VM);
static_assert(static_cast<int>(VmType::kSwProtected) ==
              KVM_X86_SW_PROTECTED_VM);
static_assert(static_cast<int>(VmType::kSev) == KVM_X86_SEV_VM);
static_assert(static_cast<int>(VmType::kSevEs) == KVM_X86_SEV_ES_VM);
static_assert(static_cast<int>(VmType::kSevSnp) == KVM_X86_SNP_VM);
static_assert(static_cast<int>(VmType::kTdx) == KVM_X86_TDX_VM);

absl::string_view VmTypeName(VmType type) {
  switch (type) {
    case VmType::kDefault:
      return "default";
    case VmType::kSwProtected:
      return "sw-protected";
    case VmType::kSev:
      return "sev";
    case VmType::kSevEs:
      return "sev-es";
    case VmType::kSevSnp:
      return "sev-snp";
    case VmType::kTdx:
      return "tdx";
  }
  return "unknown";
}

}  // namespace cloister::kvm
