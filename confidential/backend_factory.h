// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_BACKEND_FACTORY_H_
#define CLOISTER_CONFIDENTIAL_BACKEND_FACTORY_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/confidential/backend_vm.h"
#include "cloister/confidential/guest_ram.h"
#include "cloister/kvm/probe.h"
#include "cloister/kvm/system.h"

namespace cloister::confidential {

// What a host can do, as far as backends care.
struct HostFacts {
  kvm::CapabilityReport kvm;
  std::string vendor;  // "AuthenticAMD", ... as CPUID leaf 0 has it
  bool svm = false;    // CPUID 0x80000001 ECX[2] of this host (APM vol. 3)
  // Guests report conversions by VMMCALL: AMD and Hygon.
  bool amd() const {
    return vendor == "AuthenticAMD" || vendor == "HygonGenuine";
  }
  // That VMMCALL comes to this host's KVM. Where the host has no SVM, a KVM
  // that runs guests by other means may be there, and the instruction then
  // belongs to the hypervisor below: a guest was seen never to come back from
  // it.
  bool vmmcall() const { return amd() && svm; }
};

// Asks /dev/kvm and the CPU. An error only if KVM's CPUID table cannot be read.
absl::StatusOr<HostFacts> CollectHostFacts(const kvm::System& system);

// Empty if `kind` works on this host, else what is missing, ready to print.
// emulated without `hypercalls` is for guests that share nothing of their own.
std::string MissingFor(BackendKind kind, const HostFacts& facts,
                       bool hypercalls = true);

// What `choice` means here: kAuto takes the strongest that works (sw-protected,
// emulated, off). FailedPrecondition, naming what is missing, if the choice
// does not work on this host. Whether a backend asked for by name has its
// hypercalls is for ChooseHypercalls to say.
absl::StatusOr<BackendKind> ChooseBackend(BackendChoice choice,
                                          const HostFacts& facts);

// Whether the guest of a `kind` other than kOff reports conversions by VMMCALL,
// if that is `wanted`. Where the host has no VMMCALL, kAuto does without:
// the guest then shares pages by touching them, and has another launch digest.
// A backend asked for by name is FailedPrecondition there: what its digest
// covers is never chosen by the host.
absl::StatusOr<bool> ChooseHypercalls(BackendChoice choice, bool wanted,
                                      const HostFacts& facts);

// Makes a VM of the type `kind` needs, its memory and its slots. `c_bit` is the
// software C-bit's position (ignored by kOff). No page of the shared view is
// marked private yet: that is up to Backend::SetAttributes, for every page from
// `ram.aliased_end` on and before the guest runs (ConversionBroker::AddRam).
absl::StatusOr<BackendVm> CreateBackendVm(const kvm::System& system,
                                          BackendKind kind,
                                          const RamOptions& ram, int c_bit);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_BACKEND_FACTORY_H_
