// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_BACKEND_H_
#define CLOISTER_CONFIDENTIAL_BACKEND_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/kvm/exit.h"
#include "cloister/kvm/memory_region.h"
#include "cloister/kvm/registers.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/page_backend.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::confidential {

// A memory fault in the terms of the page-state map.
struct PageFault {
  memory::GuestAddress page;  // without any C-bit
  memory::PageState wanted;   // kPrivate or kShared: what the guest accessed
  // The slot that the access went to, for messages; none: not in any slot.
  std::optional<kvm::Slot> slot = std::nullopt;
};

// Bytes that must be in guest memory before the first instruction. Hardware
// backends encrypt and measure them; software ones stage them in shared memory,
// where the launch shim takes them from.
struct LaunchPages {
  memory::GuestAddress gpa;
  absl::Span<const uint8_t> bytes;
};

struct LaunchRequest {
  std::vector<LaunchPages> pages;
  // The boot CPU's first state, for backends that measure or encrypt it.
  kvm::Registers registers;
  kvm::SpecialRegisters special_registers;
};

// One way to keep a guest's memory private. Owns whatever holds the private
// side; made together with the VM (see backend_factory.h), which must outlive
// it. Thread-safe once made, but Launch is called once, before the first vCPU
// runs.
//
// What later backends need is already here: content() says whether a conversion
// keeps the bytes (in-place conversion), TranslateFault hides whose access a
// fault's flags describe, Launch carries measured pages and vCPU state.
class Backend : public memory::PageBackend {
 public:
  virtual BackendKind kind() const = 0;

  // The guest-physical address bit that selects private memory, as the guest
  // is to learn it from CPUID; nullopt if nothing is private.
  virtual std::optional<int> c_bit() const = 0;

  // What the guest wanted when KVM reported `fault`. Only the backend knows:
  // with a software C-bit, a fault that KVM calls private is an access through
  // the shared view, so the guest wants the page shared; on SNP and TDX the
  // same flag means the opposite. FailedPrecondition, naming address and flags,
  // if no conversion could ever resolve it.
  virtual absl::StatusOr<PageFault> TranslateFault(
      const kvm::MemoryFaultExit& fault) const = 0;

  // Puts the guest's first pages in place.
  virtual absl::Status Launch(const LaunchRequest& request) = 0;
};

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_BACKEND_H_
