// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_MSIX_TABLE_H_
#define CLOISTER_DEVICES_VIRTIO_MSIX_TABLE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/virtio/msi_sink.h"

namespace cloister::devices::virtio {

// The MSI-X vector table and pending bits of one function, in a memory BAR of
// their own (PCI 3.0, section 6.8.2). Thread-safe.
class MsixTable : public BusDevice {
 public:
  static constexpr uint32_t kBarSize = 4096;
  static constexpr uint32_t kPendingOffset = 2048;
  static constexpr uint16_t kMaxVectors = 128;
  static constexpr uint16_t kNoVector = 0xffff;

  // At most kMaxVectors; `sink` must outlive the table.
  MsixTable(uint16_t vectors, MsiSink& sink);

  uint16_t vectors() const { return vectors_; }

  // The message control register's enable and function mask bits.
  void SetControl(bool enabled, bool masked);
  bool enabled() const { return enabled_.load(std::memory_order_acquire); }

  // Sends the vector's message, or notes it as pending while it is masked.
  // Nothing for kNoVector, or while MSI-X is off.
  void Raise(uint16_t vector);
  void ClearPending();

  absl::string_view name() const override { return "msix"; }
  // Whole aligned dwords and qwords, as the specification wants; other reads
  // give what is there, other writes nothing.
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  struct Vector {
    uint64_t address = 0;
    uint32_t data = 0;
    bool masked = true;
    bool pending = false;
  };
  static constexpr uint32_t kEntrySize = 16;

  uint32_t Dword(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetDword(uint64_t offset, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendPending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  MsiSink& sink_;
  const uint16_t vectors_;
  std::atomic<bool> enabled_{false};
  mutable base::Mutex mutex_;
  bool masked_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Vector> table_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_MSIX_TABLE_H_
