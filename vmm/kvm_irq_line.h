// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_KVM_IRQ_LINE_H_
#define CLOISTER_VMM_KVM_IRQ_LINE_H_

#include <atomic>
#include <cstdint>

#include "cloister/devices/irq_line.h"
#include "cloister/kvm/irq.h"
#include "cloister/kvm/vm.h"

namespace cloister::vmm {

// An input of KVM's interrupt controllers (KVM_IRQ_LINE). Thread-safe; one
// ioctl for each change.
class KvmIrqLine : public devices::IrqLine {
 public:
  // `vm` must outlive the line.
  KvmIrqLine(const kvm::Vm& vm, kvm::Gsi gsi) : vm_(vm), gsi_(gsi) {}

  void SetLevel(bool asserted) override { Set(asserted); }
  void Pulse() override {
    Set(true);
    Set(false);
  }

  // Changes that KVM refused; 0 unless the VM has no such input.
  uint64_t failures() const { return failures_.load(); }

 private:
  void Set(bool asserted) {
    // A device cannot do anything about a lost interrupt: it is counted.
    if (!vm_.SetIrqLine(gsi_, asserted).ok()) failures_.fetch_add(1);
  }

  const kvm::Vm& vm_;
  const kvm::Gsi gsi_;
  std::atomic<uint64_t> failures_{0};
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_KVM_IRQ_LINE_H_
