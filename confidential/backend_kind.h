// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_BACKEND_KIND_H_
#define CLOISTER_CONFIDENTIAL_BACKEND_KIND_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cloister::confidential {

// What holds a guest's private pages. docs/threat-model.md says what each one
// protects, and from whom.
enum class BackendKind {
  kOff,          // nothing is private
  kEmulated,     // a second mapping that only KVM's slot uses
  kSwProtected,  // guest_memfd in a KVM_X86_SW_PROTECTED_VM
};

// Whether KVM emulates what such a guest does to memory-mapped registers, on
// every host: for that it reads the guest's instruction, and the page tables on
// the way to it, through the slots' userspace addresses. What is in a
// guest_memfd it can read on some hosts at most, and there is no asking which.
constexpr bool MmioCanBeEmulated(BackendKind kind) {
  return kind != BackendKind::kSwProtected;
}

// What a user may ask for: one of the above, or the strongest the host offers.
enum class BackendChoice { kAuto, kOff, kEmulated, kSwProtected };

// "off", "emulated", "sw-protected"; "auto".
absl::string_view BackendKindName(BackendKind kind);
absl::string_view BackendChoiceName(BackendChoice choice);

// The inverse. InvalidArgument, listing the names, for anything else.
absl::StatusOr<BackendChoice> ParseBackendChoice(absl::string_view name);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_BACKEND_KIND_H_
