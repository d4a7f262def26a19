// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/msix_table.h"

#include <algorithm>

#include "cloister/base/bytes.h"

namespace cloister::devices::virtio {

MsixTable::MsixTable(uint16_t vectors, MsiSink& sink)
    : sink_(sink), vectors_(std::min(vectors, kMaxVectors)), table_(vectors_) {}

void MsixTable::SetControl(bool enabled, bool masked) {
  base::MutexLock lock(&mutex_);
  enabled_.store(enabled, std::memory_order_release);
  masked_ = masked;
  SendPending();
}

void MsixTable::Raise(uint16_t vector) {
  base::MutexLock lock(&mutex_);
  if (vector >= vectors_ || !enabled()) return;
  Vector& entry = table_[vector];
  if (masked_ || entry.masked) {
    entry.pending = true;
  } else {
    sink_.Send(entry.address, entry.data);
  }
}

void MsixTable::ClearPending() {
  base::MutexLock lock(&mutex_);
  for (Vector& entry : table_) entry.pending = false;
}

void MsixTable::SendPending() {
  if (!enabled() || masked_) return;
  for (Vector& entry : table_) {
    if (!entry.pending || entry.masked) continue;
    entry.pending = false;
    sink_.Send(entry.address, entry.data);
  }
}

uint32_t MsixTable::Dword(uint64_t offset) const {
  if (offset < uint64_t{vectors_} * kEntrySize) {
    const Vector& entry = table_[offset / kEntrySize];
    switch (offset % kEntrySize) {
      case 0:
        return static_cast<uint32_t>(entry.address);
      case 4:
        return static_cast<uint32_t>(entry.address >> 32);
      case 8:
        return entry.data;
      default:
        return entry.masked ? 1 : 0;
    }
  }
  if (offset < kPendingOffset) return 0;
  uint32_t bits = 0;
  for (uint64_t i = 0; i < 32; ++i) {
    const uint64_t vector = (offset - kPendingOffset) * 8 + i;
    if (vector < vectors_ && table_[vector].pending) bits |= 1u << i;
  }
  return bits;
}

void MsixTable::SetDword(uint64_t offset, uint32_t value) {
  if (offset >= uint64_t{vectors_} * kEntrySize) return;
  Vector& entry = table_[offset / kEntrySize];
  switch (offset % kEntrySize) {
    case 0:
      entry.address = (entry.address & ~uint64_t{UINT32_MAX}) | (value & ~3u);
      break;
    case 4:
      entry.address =
          (entry.address & UINT32_MAX) | static_cast<uint64_t>(value) << 32;
      break;
    case 8:
      entry.data = value;
      break;
    default:
      entry.masked = (value & 1) != 0;
  }
}

void MsixTable::Read(uint64_t offset, absl::Span<uint8_t> data) {
  base::MutexLock lock(&mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    data[i] = static_cast<uint8_t>(Dword(at & ~uint64_t{3}) >> (at % 4 * 8));
  }
}

void MsixTable::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  if ((data.size() != 4 && data.size() != 8) || offset % data.size() != 0) {
    return;
  }
  base::MutexLock lock(&mutex_);
  for (size_t i = 0; i < data.size(); i += 4) {
    SetDword(offset + i, base::LoadLe<uint32_t>(&data[i]));
  }
  SendPending();
}

}  // namespace cloister::devices::virtio
