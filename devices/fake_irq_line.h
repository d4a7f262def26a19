// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_FAKE_IRQ_LINE_H_
#define CLOISTER_DEVICES_FAKE_IRQ_LINE_H_

#include "absl/base/thread_annotations.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/irq_line.h"

namespace cloister::devices {

// Counts what an interrupt controller would see. Thread-safe.
class FakeIrqLine : public IrqLine {
 public:
  void SetLevel(bool asserted) override {
    base::MutexLock lock(&mutex_);
    if (asserted == level_) ++redundant_;
    if (asserted && !level_) ++edges_;
    level_ = asserted;
  }
  void Pulse() override {
    base::MutexLock lock(&mutex_);
    ++edges_;
  }

  bool level() const {
    base::MutexLock lock(&mutex_);
    return level_;
  }
  // Rising edges so far.
  int edges() const {
    base::MutexLock lock(&mutex_);
    return edges_;
  }
  // Calls of SetLevel that changed nothing; the contract wants none.
  int redundant() const {
    base::MutexLock lock(&mutex_);
    return redundant_;
  }

 private:
  mutable base::Mutex mutex_;
  bool level_ ABSL_GUARDED_BY(mutex_) = false;
  int edges_ ABSL_GUARDED_BY(mutex_) = 0;
  int redundant_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_FAKE_IRQ_LINE_H_
