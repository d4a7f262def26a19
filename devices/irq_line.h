// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_IRQ_LINE_H_
#define CLOISTER_DEVICES_IRQ_LINE_H_

namespace cloister::devices {

// One input of the guest's interrupt controller, as a device sees it. The
// implementations that reach the hypervisor live in vmm; a device knows no
// interrupt numbers.
//
// Level semantics: SetLevel(true) asserts the line until SetLevel(false). A
// device calls it only when its level changes, and lets the line drop before it
// asserts again, so that an edge-triggered input (ISA) sees each new request.
// Edge semantics: Pulse() is one request, with nothing to take back.
// A device uses one of the two, never both.
//
// Thread-safe: any thread may call, with a device's lock held. Must not block
// and must not call back into the device.
class IrqLine {
 public:
  virtual ~IrqLine() = default;

  virtual void SetLevel(bool asserted) = 0;
  virtual void Pulse() = 0;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_IRQ_LINE_H_
