// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/mmio_transport.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {
namespace {

// Registers (virtio 1.3, 4.2.2).
enum Register : uint64_t {
  kMagic = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSelect = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSelect = 0x024,
  kQueueSelect = 0x030,
  kQueueSizeMax = 0x034,
  kQueueSize = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDesc = 0x080,
  kQueueDriver = 0x090,
  kQueueDevice = 0x0a0,
  kQueueEnd = 0x0a8,
  kShmLength = 0x0b0,
  kShmEnd = 0x0c0,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};
constexpr uint32_t kMagicValue = 0x74726976;  // "virt"
constexpr uint32_t kVendor = 0x4f4c4354;

}  // namespace

absl::StatusOr<std::shared_ptr<MmioTransport>> MmioTransport::Create(
    std::unique_ptr<VirtioDevice> device, const Parts& parts, uint64_t address,
    const DeviceState::Options& options) {
  std::shared_ptr<MmioTransport> transport(
      new MmioTransport(parts, std::string(device->name())));
  ASSIGN_OR_RETURN(transport->state_,
                   DeviceState::Create(std::move(device), *parts.view, options,
                                       *transport, *parts.log));
  transport->BindNotifications(address);
  return transport;
}

void MmioTransport::BindNotifications(uint64_t address) {
  if (parts_.notify == nullptr) return;
  for (uint16_t i = 0; i < state_->queue_count(); ++i) {
    const NotifyAddress notify = {NotifyAddress::Space::kMmio,
                                  address + kQueueNotify, /*width=*/4,
                                  /*value=*/i};
    absl::Status status = parts_.notify->Bind(notify, state_->kick(i));
    if (!status.ok()) {
      parts_.log->Debug(absl::StrCat(name_, ": ", status.message()));
      return;
    }
    bound_.push_back(notify);
  }
}

MmioTransport::~MmioTransport() {
  for (size_t i = 0; i < bound_.size(); ++i) {
    parts_.notify->Unbind(bound_[i], state_->kick(static_cast<uint16_t>(i)));
  }
}

void MmioTransport::Read(uint64_t offset, absl::Span<uint8_t> data) {
  base::MutexLock lock(&mutex_);
  if (offset >= kConfig) {
    state_->ReadConfig(offset - kConfig, data);
    return;
  }
  std::fill(data.begin(), data.end(), 0);
  if (data.size() != 4 || offset % 4 != 0) return;
  base::StoreLe<uint32_t>(data.data(), ReadRegister(offset));
}

uint32_t MmioTransport::ReadRegister(uint64_t offset) {
  // No shared memory regions: a length of all ones.
  if (offset >= kShmLength && offset < kShmEnd) return UINT32_MAX;
  switch (offset) {
    case kMagic:
      return kMagicValue;
    case kVersion:
      return 2;
    case kDeviceId:
      return state_->device().type();
    case kVendorId:
      return kVendor;
    case kDeviceFeatures:
      return state_->OfferedFeatures(offered_word_);
    case kQueueSizeMax:
      return state_->queue(selected_).max_size;
    case kQueueReady:
      return state_->queue(selected_).enabled ? 1 : 0;
    case kInterruptStatus:
      return interrupts_.bits();
    case kStatus:
      return state_->status();
    case kConfigGeneration:
      return state_->ConfigGeneration();
    default:
      return 0;
  }
}

void MmioTransport::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  if (offset >= kConfig) {
    base::MutexLock lock(&mutex_);
    state_->WriteConfig(offset - kConfig, data);
    return;
  }
  if (data.size() != 4 || offset % 4 != 0) return;
  const uint32_t value = base::LoadLe<uint32_t>(data.data());
  if (offset == kQueueNotify) {
    state_->Kick(static_cast<uint16_t>(std::min<uint32_t>(value, UINT16_MAX)));
    return;
  }
  if (offset == kInterruptAck) {
    interrupts_.Clear(static_cast<uint8_t>(value));
    return;
  }
  {
    base::MutexLock lock(&mutex_);
    WriteRegister(offset, value);
  }
  if (offset == kStatus && value == 0) {
    state_->WaitForReset(std::chrono::steady_clock::now() + kResetWait);
  }
}

void MmioTransport::WriteRegister(uint64_t offset, uint32_t value) {
  if (offset >= kQueueDesc && offset < kQueueEnd) {
    return WriteAddress(offset, value);
  }
  switch (offset) {
    case kDeviceFeaturesSelect:
      offered_word_ = value;
      return;
    case kDriverFeatures:
      return state_->AcceptFeatures(accepted_word_, value);
    case kDriverFeaturesSelect:
      accepted_word_ = value;
      return;
    case kQueueSelect:
      selected_ = static_cast<uint16_t>(std::min<uint32_t>(value, UINT16_MAX));
      return;
    case kQueueSize:
      return state_->SetQueueSize(
          selected_, static_cast<uint16_t>(value > UINT16_MAX ? 0 : value));
    case kQueueReady:
      return state_->SetQueueEnabled(selected_, (value & 1) != 0);
    case kStatus:
      return state_->WriteStatus(static_cast<uint8_t>(value));
    default:
      return;
  }
}

void MmioTransport::WriteAddress(uint64_t offset, uint32_t value) {
  using Ring = DeviceState::Ring;
  const Ring ring = offset < kQueueDriver   ? Ring::kDesc
                    : offset < kQueueDevice ? Ring::kDriver
                                            : Ring::kDevice;
  const uint64_t half = offset & 0xf;
  if (half == 0 || half == 4) {
    state_->SetQueueAddress(selected_, ring, half == 4, value);
  }
}

}  // namespace cloister::devices::virtio
