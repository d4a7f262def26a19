// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_SHARED_IRQ_LINE_H_
#define CLOISTER_VMM_SHARED_IRQ_LINE_H_

#include <list>

#include "cloister/base/mutex.h"
#include "cloister/devices/irq_line.h"

namespace cloister::vmm {

// A level-triggered line of which several devices drive an end each: asserted
// while any of them asserts it, as the wires of PCI interrupts are. Thread-safe
// but for Add.
class SharedIrqLine {
 public:
  // `line` must outlive this.
  explicit SharedIrqLine(devices::IrqLine& line) : line_(line) {}
  SharedIrqLine(const SharedIrqLine&) = delete;
  SharedIrqLine& operator=(const SharedIrqLine&) = delete;

  // One more end, which lives as long as this.
  devices::IrqLine& Add() { return ends_.emplace_back(*this); }

 private:
  class End : public devices::IrqLine {
   public:
    explicit End(SharedIrqLine& shared) : shared_(shared) {}
    void SetLevel(bool asserted) override { shared_.Change(asserted); }
    void Pulse() override {
      SetLevel(true);
      SetLevel(false);
    }

   private:
    SharedIrqLine& shared_;
  };

  void Change(bool asserted) {
    base::MutexLock lock(&mutex_);
    const bool before = asserted_ != 0;
    asserted_ += asserted ? 1 : -1;
    if ((asserted_ != 0) != before) line_.SetLevel(asserted_ != 0);
  }

  devices::IrqLine& line_;
  std::list<End> ends_;
  base::Mutex mutex_;
  int asserted_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_SHARED_IRQ_LINE_H_
