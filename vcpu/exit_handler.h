// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_EXIT_HANDLER_H_
#define CLOISTER_VCPU_EXIT_HANDLER_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "cloister/kvm/exit.h"
#include "cloister/memory/guest_address.h"

namespace cloister::vcpu {

// What a guest's write, or a system event, means for the VM.
enum class Verdict {
  kContinue,
  kReset,     // The vCPU ends with RunEnd::Kind::kReset.
  kPowerOff,  // ... with RunEnd::Kind::kPowerOff.
};

struct Hypercall {
  uint64_t number = 0;  // kvm::HypercallExit::kMapGpaRange, ...
  std::array<uint64_t, 6> args = {};
  bool long_mode = false;
};

// RDMSR or WRMSR of a register that KVM leaves to user space.
struct MsrAccess {
  uint32_t index = 0;
  bool is_write = false;
  uint64_t value = 0;  // What is written, or where a read's answer goes.
};

// What a Runner asks when its vCPU leaves guest mode: devices, the conversion
// broker and power control stand behind it, joined by vmm/.
//
// Each call comes from the thread of the vCPU concerned; one object serving
// several vCPUs must be thread-safe. The guest does not run on until the call
// returns, so that large requests are finished first; calls should otherwise be
// short, for pausing and stopping wait for them. All arguments come from the
// guest and are hostile. The guest's mistakes are answered in the guest's
// terms; only OnMemoryFault can end the VM with an error.
//
// Calls may call Runner::RequestPause and RequestStop, never anything of it
// that waits.
class ExitHandler {
 public:
  virtual ~ExitHandler() = default;

  // The generation of the page-state map, asked for before each KVM_RUN and
  // handed to OnMemoryFault: a fault raised under an older generation of its
  // page is stale. 0 without such a map.
  virtual uint64_t PageStateGeneration() = 0;

  // IN and OUT of `data.size()` = 1, 2 or 4 bytes, little-endian. String I/O
  // comes one element at a time. `data` of a read is all ones beforehand, the
  // answer of a port that nobody has.
  virtual void OnPortRead(uint16_t port, absl::Span<uint8_t> data) = 0;
  virtual Verdict OnPortWrite(uint16_t port,
                              absl::Span<const uint8_t> data) = 0;

  // Accesses to addresses without a memory slot, of 1 to 8 bytes that may cross
  // a page; else as above.
  virtual void OnMmioRead(memory::GuestAddress address,
                          absl::Span<uint8_t> data) = 0;
  virtual Verdict OnMmioWrite(memory::GuestAddress address,
                              absl::Span<const uint8_t> data) = 0;

  // Returns what the guest finds in RAX.
  virtual uint64_t OnHypercall(const Hypercall& call) = 0;

  // The page's private or shared state did not allow an access. OK re-enters
  // the guest, which tries again; an error ends the VM and is reported with the
  // address and RIP.
  virtual absl::Status OnMemoryFault(const kvm::MemoryFaultExit& fault,
                                     uint64_t generation) = 0;

  // False gives the guest #GP.
  virtual bool OnMsr(MsrAccess& access) = 0;

  // Split irqchip: the guest's EOI of a level-triggered vector.
  virtual void OnApicEoi(uint8_t vector) = 0;

  // The guest, or KVM for it, asks for shutdown or reset: those two types only.
  // Every other KVM_EXIT_SYSTEM_EVENT, a crash for one, ends the VM with an
  // error. See DefaultVerdict.
  virtual Verdict OnSystemEvent(const kvm::SystemEventExit& event) = 0;
};

// Shutdown powers off, reset resets.
inline Verdict DefaultVerdict(const kvm::SystemEventExit& event) {
  switch (event.type) {
    case kvm::SystemEventExit::kShutdown:
      return Verdict::kPowerOff;
    case kvm::SystemEventExit::kReset:
      return Verdict::kReset;
    default:
      return Verdict::kContinue;
  }
}

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_EXIT_HANDLER_H_
