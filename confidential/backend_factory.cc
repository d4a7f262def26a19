// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/backend_factory.h"

#include <cpuid.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/emulated.h"
#include "cloister/confidential/off.h"
#include "cloister/confidential/sw_protected.h"
#include "cloister/kvm/capability.h"

namespace cloister::confidential {

using kvm::Capability;
using kvm::CapabilityName;

namespace {

std::string VendorOf(const std::vector<kvm::CpuidEntry>& cpuid) {
  for (const kvm::CpuidEntry& entry : cpuid) {
    if (entry.function != 0) continue;
    char vendor[12];
    std::memcpy(vendor, &entry.ebx, 4);
    std::memcpy(vendor + 4, &entry.edx, 4);
    std::memcpy(vendor + 8, &entry.ecx, 4);
    return std::string(vendor, sizeof(vendor));
  }
  return "";
}

bool HostHasSvm() {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0 &&
         (ecx & 1u << 2) != 0;
}

}  // namespace

absl::StatusOr<HostFacts> CollectHostFacts(const kvm::System& system) {
  HostFacts facts;
  facts.kvm = kvm::Probe(system);
  ASSIGN_OR_RETURN(auto cpuid, system.SupportedCpuid());
  facts.vendor = VendorOf(cpuid);
  facts.svm = HostHasSvm();
  return facts;
}

std::string MissingFor(BackendKind kind, const HostFacts& facts,
                       bool hypercalls) {
  switch (kind) {
    case BackendKind::kOff:
      return facts.kvm.default_vm ? ""
                                  : absl::StrCat("no VM can be made: ",
                                                 facts.kvm.default_vm_error);
    case BackendKind::kEmulated:
      if (!facts.kvm.default_vm) {
        return absl::StrCat("no VM can be made: ", facts.kvm.default_vm_error);
      }
      if (!facts.amd()) {
        return "an AMD CPU, whose guests report conversions by VMMCALL";
      }
      if (!facts.kvm.map_gpa_range_exits()) {
        return absl::StrCat(CapabilityName(Capability::kExitHypercall),
                            " with MAP_GPA_RANGE (Linux 5.14)");
      }
      if (hypercalls && !facts.vmmcall()) {
        return "SVM: this KVM does without hardware virtualisation, and its "
               "guests' VMMCALL does not come to it";
      }
      return "";
    case BackendKind::kSwProtected:
      if (!facts.kvm.sw_protected_vm) {
        return absl::StrCat(
            "software-protected VMs (Linux 6.8 with "
            "CONFIG_KVM_SW_PROTECTED_VM and hardware virtualisation): ",
            facts.kvm.sw_protected_vm_error);
      }
      if ((facts.kvm.memory_attributes_mask & 8) == 0) {
        return absl::StrCat(CapabilityName(Capability::kMemoryAttributes),
                            " with PRIVATE (Linux 6.8)");
      }
      if (!facts.kvm.guest_memfd) {
        return std::string(CapabilityName(Capability::kGuestMemfd));
      }
      if (!facts.kvm.user_memory2) {
        return std::string(CapabilityName(Capability::kUserMemory2));
      }
      return "";
  }
  return "an implementation";
}

absl::StatusOr<BackendKind> ChooseBackend(BackendChoice choice,
                                          const HostFacts& facts) {
  BackendKind kind = BackendKind::kOff;
  switch (choice) {
    case BackendChoice::kAuto:
      for (BackendKind candidate :
           {BackendKind::kSwProtected, BackendKind::kEmulated}) {
        if (MissingFor(candidate, facts).empty()) return candidate;
      }
      break;
    case BackendChoice::kOff:
      break;
    case BackendChoice::kEmulated:
      kind = BackendKind::kEmulated;
      break;
    case BackendChoice::kSwProtected:
      kind = BackendKind::kSwProtected;
      break;
  }
  const std::string missing = MissingFor(kind, facts, /*hypercalls=*/false);
  if (!missing.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--confidential ", BackendChoiceName(choice),
                     ": this host lacks ", missing));
  }
  return kind;
}

absl::StatusOr<bool> ChooseHypercalls(BackendChoice choice, bool wanted,
                                      const HostFacts& facts) {
  if (!wanted || facts.vmmcall()) return wanted;
  if (choice == BackendChoice::kAuto) return false;
  return absl::FailedPreconditionError(
      "--conversion-reports hypercall: guests of this host have no VMMCALL; "
      "--conversion-reports fault works, with another launch digest");
}

absl::StatusOr<BackendVm> CreateBackendVm(const kvm::System& system,
                                          BackendKind kind,
                                          const RamOptions& ram, int c_bit) {
  switch (kind) {
    case BackendKind::kOff:
      return CreateOffVm(system, ram);
    case BackendKind::kEmulated:
      return CreateEmulatedVm(system, ram, c_bit);
    case BackendKind::kSwProtected:
      return CreateSwProtectedVm(system, ram, c_bit);
  }
  return absl::InvalidArgumentError("unknown confidential backend");
}

}  // namespace cloister::confidential
