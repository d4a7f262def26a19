// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_INTERRUPT_STATUS_H_
#define CLOISTER_DEVICES_VIRTIO_INTERRUPT_STATUS_H_

#include <cstdint>

#include "cloister/base/mutex.h"
#include "cloister/devices/irq_line.h"

namespace cloister::devices::virtio {

// The interrupt status register of a virtio device and the level-triggered line
// that follows it: asserted while a bit is set and the line is not masked
// (virtio 1.3, sections 4.1.4.5 and 4.2.2). Thread-safe.
class InterruptStatus {
 public:
  static constexpr uint8_t kQueue = 1;
  static constexpr uint8_t kConfig = 2;

  // `line` must outlive this.
  explicit InterruptStatus(IrqLine& line) : line_(line) {}

  void Raise(uint8_t bits) {
    base::MutexLock lock(&mutex_);
    bits_ |= bits;
    Update();
  }
  void Clear(uint8_t bits) {
    base::MutexLock lock(&mutex_);
    bits_ &= ~bits;
    Update();
  }
  // What a driver's read of the PCI ISR register does.
  uint8_t ReadAndClear() {
    base::MutexLock lock(&mutex_);
    const uint8_t bits = bits_;
    bits_ = 0;
    Update();
    return bits;
  }
  uint8_t bits() const {
    base::MutexLock lock(&mutex_);
    return bits_;
  }
  // PCI's INTx disable.
  void SetMasked(bool masked) {
    base::MutexLock lock(&mutex_);
    masked_ = masked;
    Update();
  }

 private:
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool level = bits_ != 0 && !masked_;
    if (level == level_) return;
    level_ = level;
    line_.SetLevel(level);
  }

  IrqLine& line_;
  mutable base::Mutex mutex_;
  uint8_t bits_ ABSL_GUARDED_BY(mutex_) = 0;
  bool masked_ ABSL_GUARDED_BY(mutex_) = false;
  bool level_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_INTERRUPT_STATUS_H_
