// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/pci_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint16_t kVendor = 0x1af4;
constexpr uint16_t kFirstDevice = 0x1040;

// BAR 0, and the parts of it.
constexpr int kRegistersBar = 0;
constexpr int kNotifyBar = 1;
constexpr int kMsixBar = 2;
constexpr uint32_t kCommonOffset = 0;
constexpr uint32_t kCommonSize = 0x38;
constexpr uint32_t kIsrOffset = 0x40;
constexpr uint32_t kIsrSize = 4;
constexpr uint32_t kDeviceOffset = 0x50;
constexpr uint32_t kDeviceSize = PciTransport::kRegistersSize - kDeviceOffset;
// BAR 1: a port of this many bytes for each queue.
constexpr uint32_t kNotifyStride = 4;

// Capabilities (virtio 1.3, 4.1.4), offsets from their start.
constexpr uint8_t kVendorCapability = 0x09;
constexpr uint8_t kMsixCapability = 0x11;
constexpr uint8_t kCommonType = 1;
constexpr uint8_t kNotifyType = 2;
constexpr uint8_t kIsrType = 3;
constexpr uint8_t kDeviceType = 4;
constexpr uint8_t kAccessType = 5;
constexpr uint32_t kAccessBar = 4;
constexpr uint32_t kAccessOffset = 8;
constexpr uint32_t kAccessLength = 12;
constexpr uint32_t kAccessData = 16;
constexpr uint32_t kMsixControl = 2;
constexpr uint16_t kMsixEnable = 1 << 15;
constexpr uint16_t kMsixMask = 1 << 14;

constexpr uint16_t kStatusInterrupt = 1 << 3;  // PCI status register

// The common configuration's fields (4.1.4.3).
enum Field : uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigVector = 0x10,
  kQueueCount = 0x12,
  kDeviceStatus = 0x14,
  kGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOff = 0x1e,
  kQueueDesc = 0x20,
  kQueueDriver = 0x28,
  kQueueDevice = 0x30,
};

uint32_t ClassCode(uint32_t type) {
  switch (type) {
    case 1:  // network: ethernet controller
      return 0x020000;
    case 2:  // block: other mass storage
      return 0x018000;
    case 3:   // console
    case 19:  // vsock: other communication
      return 0x078000;
    default:
      return 0xff0000;
  }
}

// A capability's body from its length byte on.
std::array<uint8_t, 14> Structure(uint8_t type, uint8_t size, uint8_t bar,
                                  uint32_t offset, uint32_t length) {
  std::array<uint8_t, 14> body = {size, type, bar};
  base::StoreLe<uint32_t>(&body[6], offset);
  base::StoreLe<uint32_t>(&body[10], length);
  return body;
}

template <size_t N, size_t M>
std::array<uint8_t, N + M> Join(const std::array<uint8_t, N>& a,
                                const std::array<uint8_t, M>& b) {
  std::array<uint8_t, N + M> both;
  std::copy(a.begin(), a.end(), both.begin());
  std::copy(b.begin(), b.end(), both.begin() + N);
  return both;
}

}  // namespace

PciTransport::PciTransport(const Parts& parts, const PciIdentity& identity,
                           std::string name)
    : parts_(parts),
      name_(std::move(name)),
      registers_(*this, kRegistersBar),
      notify_(*this, kNotifyBar),
      interrupts_(*parts.irq),
      config_(identity),
      registers_bar_(*parts.pio, kRegistersSize),
      notify_bar_(*parts.pio, kNotifySize) {
  for (auto& vector : queue_vectors_) vector.store(MsixTable::kNoVector);
}

absl::StatusOr<std::shared_ptr<PciTransport>> PciTransport::Create(
    std::unique_ptr<VirtioDevice> device, const Parts& parts,
    const Placement& placement, const DeviceState::Options& options) {
  PciIdentity identity;
  identity.vendor = kVendor;
  identity.device = static_cast<uint16_t>(kFirstDevice + device->type());
  identity.revision = 1;
  identity.class_code = ClassCode(device->type());
  identity.subsystem_vendor = kVendor;
  identity.subsystem = identity.device;
  std::shared_ptr<PciTransport> transport(
      new PciTransport(parts, identity, std::string(device->name())));
  ASSIGN_OR_RETURN(transport->state_,
                   DeviceState::Create(std::move(device), *parts.view, options,
                                       *transport, *parts.log));
  base::MutexLock lock(&transport->mutex_);
  RETURN_IF_ERROR(transport->AddBars(placement));
  RETURN_IF_ERROR(transport->AddCapabilities());
  transport->UpdateBars();
  if (!transport->registers_bar_.address().has_value() ||
      !transport->notify_bar_.address().has_value()) {
    transport->LeaveBuses();
    return absl::AlreadyExistsError(absl::StrCat(
        transport->name_, ": ports 0x", absl::Hex(placement.registers),
        " and 0x", absl::Hex(placement.notify), " are in use"));
  }
  return transport;
}

// What is on a bus is kept by it.
void PciTransport::LeaveBuses() {
  UnbindNotifications();
  registers_bar_.Update(std::nullopt, nullptr);
  notify_bar_.Update(std::nullopt, nullptr);
  if (msix_bar_.has_value()) msix_bar_->Update(std::nullopt, nullptr);
}

void PciTransport::TakeOffBuses() {
  base::MutexLock lock(&mutex_);
  LeaveBuses();
}

PciTransport::~PciTransport() {
  base::MutexLock lock(&mutex_);
  UnbindNotifications();
}

absl::Status PciTransport::AddBars(const Placement& placement) {
  using Kind = PciConfigSpace::BarKind;
  RETURN_IF_ERROR(config_.AddBar(kRegistersBar, Kind::kIo, kRegistersSize,
                                 placement.registers));
  RETURN_IF_ERROR(
      config_.AddBar(kNotifyBar, Kind::kIo, kNotifySize, placement.notify));
  config_.SetInterruptLine(placement.irq_line);
  if (parts_.msi == nullptr || parts_.mmio == nullptr) return absl::OkStatus();
  msix_ = std::make_unique<MsixTable>(state_->queue_count() + 1, *parts_.msi);
  msix_bar_.emplace(*parts_.mmio, MsixTable::kBarSize);
  return config_.AddBar(kMsixBar, Kind::kMemory32, MsixTable::kBarSize,
                        placement.msix);
}

absl::Status PciTransport::AddCapabilities() {
  auto add = [this](absl::Span<const uint8_t> body) {
    mutex_.AssertHeld();
    return config_.AddCapability(kVendorCapability, body).status();
  };
  RETURN_IF_ERROR(add(
      Structure(kCommonType, 16, kRegistersBar, kCommonOffset, kCommonSize)));
  std::array<uint8_t, 4> stride = {kNotifyStride};
  RETURN_IF_ERROR(add(
      Join(Structure(kNotifyType, 20, kNotifyBar, 0, kNotifySize), stride)));
  RETURN_IF_ERROR(
      add(Structure(kIsrType, 16, kRegistersBar, kIsrOffset, kIsrSize)));
  RETURN_IF_ERROR(add(
      Structure(kDeviceType, 16, kRegistersBar, kDeviceOffset, kDeviceSize)));
  // The guest's: BAR, offset, length, data.
  std::array<uint8_t, 18> writable = {};
  writable[kAccessBar - 2] = 0xff;
  std::fill(writable.begin() + kAccessOffset - 2, writable.end(), 0xff);
  ASSIGN_OR_RETURN(
      access_capability_,
      config_.AddCapability(
          kVendorCapability,
          Join(Structure(kAccessType, 20, 0, 0, 0), std::array<uint8_t, 4>{}),
          writable));
  return msix_ == nullptr ? absl::OkStatus() : AddMsix();
}

absl::Status PciTransport::AddMsix() {
  std::array<uint8_t, 10> body = {};
  base::StoreLe<uint16_t>(&body[0], msix_->vectors() - 1);
  base::StoreLe<uint32_t>(&body[2], kMsixBar);
  base::StoreLe<uint32_t>(&body[6], MsixTable::kPendingOffset | kMsixBar);
  const std::array<uint8_t, 2> writable = {0, (kMsixEnable | kMsixMask) >> 8};
  ASSIGN_OR_RETURN(msix_capability_,
                   config_.AddCapability(kMsixCapability, body, writable));
  return absl::OkStatus();
}

// --- configuration space ---

std::optional<PciTransport::Indirect> PciTransport::IndirectAccess(
    uint32_t offset, size_t size) {
  const uint32_t data = access_capability_ + kAccessData;
  if (offset < data || offset + size > data + 4) return std::nullopt;
  Indirect access;
  access.bar = config_.Get32(access_capability_ + kAccessBar) & 0xff;
  access.offset = config_.Get32(access_capability_ + kAccessOffset);
  access.size = config_.Get32(access_capability_ + kAccessLength);
  const bool sized = access.size == 1 || access.size == 2 || access.size == 4;
  static_assert(kRegistersSize == kNotifySize);
  if ((access.bar != kRegistersBar && access.bar != kNotifyBar) || !sized ||
      access.offset % access.size != 0 ||
      access.offset > kRegistersSize - access.size) {
    return std::nullopt;
  }
  return access;
}

void PciTransport::ReadPciConfig(uint32_t offset, absl::Span<uint8_t> data) {
  std::optional<Indirect> access;
  {
    base::MutexLock lock(&mutex_);
    access = IndirectAccess(offset, data.size());
  }
  uint8_t bytes[4] = {};
  if (access.has_value()) {
    ReadBar(access->bar, access->offset, absl::MakeSpan(bytes, access->size));
  }
  base::MutexLock lock(&mutex_);
  if (access.has_value()) {
    config_.Set32(access_capability_ + kAccessData,
                  base::LoadLe<uint32_t>(bytes));
  }
  const bool pending = interrupts_.bits() != 0;
  config_.Set16(PciConfigSpace::kStatus,
                (config_.Get16(PciConfigSpace::kStatus) & ~kStatusInterrupt) |
                    (pending ? kStatusInterrupt : 0));
  config_.Read(offset, data);
}

void PciTransport::WritePciConfig(uint32_t offset,
                                  absl::Span<const uint8_t> data) {
  std::optional<Indirect> access;
  uint8_t bytes[4];
  {
    base::MutexLock lock(&mutex_);
    config_.Write(offset, data);
    UpdateBars();
    UpdateMsix();
    access = IndirectAccess(offset, data.size());
    base::StoreLe<uint32_t>(bytes,
                            config_.Get32(access_capability_ + kAccessData));
  }
  if (access.has_value()) {
    WriteBar(access->bar, access->offset,
             absl::MakeConstSpan(bytes, access->size));
  }
}

void PciTransport::UpdateBars() {
  std::shared_ptr<PciTransport> self = shared_from_this();
  interrupts_.SetMasked(
      (config_.command() & PciConfigSpace::kCommandIntxDisable) != 0);
  registers_bar_.Update(config_.BarAddress(kRegistersBar), {self, &registers_});
  if (msix_bar_.has_value()) {
    msix_bar_->Update(config_.BarAddress(kMsixBar), {self, msix_.get()});
  }
  if (config_.BarAddress(kNotifyBar) == notify_bar_.address()) return;
  UnbindNotifications();
  notify_bar_.Update(config_.BarAddress(kNotifyBar), {self, &notify_});
  BindNotifications();
}

void PciTransport::UpdateMsix() {
  if (msix_ == nullptr) return;
  const uint16_t control = config_.Get16(msix_capability_ + kMsixControl);
  msix_->SetControl((control & kMsixEnable) != 0, (control & kMsixMask) != 0);
}

void PciTransport::BindNotifications() {
  if (parts_.notify == nullptr || !notify_bar_.address().has_value()) return;
  for (uint16_t i = 0; i < state_->queue_count(); ++i) {
    const NotifyAddress address = {NotifyAddress::Space::kPio,
                                   *notify_bar_.address() + i * kNotifyStride,
                                   /*width=*/2};
    absl::Status status = parts_.notify->Bind(address, state_->kick(i));
    if (!status.ok()) {
      parts_.log->Debug(absl::StrCat(name_, ": ", status.message()));
      return;
    }
    bound_.push_back(address);
  }
}

void PciTransport::UnbindNotifications() {
  for (size_t i = 0; i < bound_.size(); ++i) {
    parts_.notify->Unbind(bound_[i], state_->kick(static_cast<uint16_t>(i)));
  }
  bound_.clear();
}

// --- BARs ---

void PciTransport::ReadBar(int bar, uint64_t offset, absl::Span<uint8_t> data) {
  std::fill(data.begin(), data.end(), 0);
  if (bar == kNotifyBar) return;
  if (offset >= kDeviceOffset) {
    base::MutexLock lock(&mutex_);
    state_->ReadConfig(offset - kDeviceOffset, data);
    return;
  }
  uint32_t value = 0;
  if (offset == kIsrOffset) {
    value = interrupts_.ReadAndClear();
  } else if (offset < kCommonSize) {
    base::MutexLock lock(&mutex_);
    value = ReadCommon(offset, data.size());
  }
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof(value)));
}

void PciTransport::WriteBar(int bar, uint64_t offset,
                            absl::Span<const uint8_t> data) {
  if (bar == kNotifyBar) {
    state_->Kick(static_cast<uint16_t>(offset / kNotifyStride));
    return;
  }
  base::MutexLock lock(&mutex_);
  if (offset >= kDeviceOffset) {
    state_->WriteConfig(offset - kDeviceOffset, data);
    return;
  }
  uint32_t value = 0;
  if (data.size() > sizeof(value)) return;
  std::memcpy(&value, data.data(), data.size());
  WriteCommon(offset, data.size(), value);
}

// Fields are read and written as a whole; other accesses give 0 and do nothing.
uint32_t PciTransport::ReadCommon(uint64_t offset, size_t size) {
  switch (offset) {
    case kDeviceFeatureSelect:
      return offered_word_;
    case kDeviceFeature:
      return state_->OfferedFeatures(offered_word_);
    case kDriverFeatureSelect:
      return accepted_word_;
    case kDriverFeature:
      return state_->AcceptedFeatures(accepted_word_);
    case kConfigVector:
      return config_vector_.load();
    case kQueueCount:
      return state_->queue_count();
    case kDeviceStatus:
      return state_->status();
    case kGeneration:
      return state_->ConfigGeneration();
    case kQueueSelect:
      return selected_;
    default:
      return ReadSelectedQueue(offset, size);
  }
}

uint32_t PciTransport::ReadSelectedQueue(uint64_t offset, size_t size) {
  const DeviceState::QueueRegisters queue = state_->queue(selected_);
  auto half = [&](uint64_t field, uint64_t address) {
    return static_cast<uint32_t>(offset == field ? address : address >> 32);
  };
  switch (offset) {
    case kQueueSize:
      return queue.size;
    case kQueueVector:
      return selected_ < queue_vectors_.size()
                 ? queue_vectors_[selected_].load()
                 : MsixTable::kNoVector;
    case kQueueEnable:
      return queue.enabled ? 1 : 0;
    case kQueueNotifyOff:
      return selected_ < state_->queue_count() ? selected_ : 0;
    case kQueueDesc:
    case kQueueDesc + 4:
      return size == 4 ? half(kQueueDesc, queue.desc) : 0;
    case kQueueDriver:
    case kQueueDriver + 4:
      return size == 4 ? half(kQueueDriver, queue.driver) : 0;
    case kQueueDevice:
    case kQueueDevice + 4:
      return size == 4 ? half(kQueueDevice, queue.device) : 0;
    default:
      return 0;
  }
}

// A vector that does not exist reads back as none, and so does every one where
// there is no MSI-X.
uint16_t PciTransport::CheckedVector(uint32_t vector) const {
  return msix_ != nullptr && vector < msix_->vectors()
             ? static_cast<uint16_t>(vector)
             : MsixTable::kNoVector;
}

void PciTransport::WriteCommon(uint64_t offset, size_t size, uint32_t value) {
  switch (offset) {
    case kDeviceFeatureSelect:
      if (size == 4) offered_word_ = value;
      return;
    case kDriverFeatureSelect:
      if (size == 4) accepted_word_ = value;
      return;
    case kDriverFeature:
      if (size == 4) state_->AcceptFeatures(accepted_word_, value);
      return;
    case kConfigVector:
      if (size == 2) config_vector_.store(CheckedVector(value));
      return;
    case kDeviceStatus:
      if (size == 1) state_->WriteStatus(static_cast<uint8_t>(value));
      return;
    case kQueueSelect:
      if (size == 2) selected_ = static_cast<uint16_t>(value);
      return;
    default:
      WriteSelectedQueue(offset, size, value);
  }
}

void PciTransport::WriteSelectedQueue(uint64_t offset, size_t size,
                                      uint32_t value) {
  using Ring = DeviceState::Ring;
  if (offset >= kQueueDesc && offset < kCommonSize) {
    if (size != 4 || offset % 4 != 0) return;
    const Ring ring = offset < kQueueDriver   ? Ring::kDesc
                      : offset < kQueueDevice ? Ring::kDriver
                                              : Ring::kDevice;
    state_->SetQueueAddress(selected_, ring, offset % 8 != 0, value);
    return;
  }
  if (size != 2) return;
  switch (offset) {
    case kQueueSize:
      return state_->SetQueueSize(selected_, static_cast<uint16_t>(value));
    case kQueueVector:
      if (selected_ < state_->queue_count()) {
        queue_vectors_[selected_].store(CheckedVector(value));
      }
      return;
    case kQueueEnable:
      // A driver only ever writes 1 (4.1.4.3.2).
      if (value == 1) state_->SetQueueEnabled(selected_, true);
      return;
    default:
      return;
  }
}

// --- interrupts ---

void PciTransport::QueueInterrupt(uint16_t queue) {
  if (queue >= queue_vectors_.size()) return;
  if (msix_ != nullptr && msix_->enabled()) {
    msix_->Raise(queue_vectors_[queue].load());
  } else {
    interrupts_.Raise(InterruptStatus::kQueue);
  }
}

void PciTransport::ConfigInterrupt() {
  if (msix_ != nullptr && msix_->enabled()) {
    msix_->Raise(config_vector_.load());
  } else {
    interrupts_.Raise(InterruptStatus::kConfig);
  }
}

void PciTransport::ResetDone() {
  interrupts_.Clear(InterruptStatus::kQueue | InterruptStatus::kConfig);
  if (msix_ != nullptr) msix_->ClearPending();
  for (auto& vector : queue_vectors_) vector.store(MsixTable::kNoVector);
  config_vector_.store(MsixTable::kNoVector);
}

}  // namespace cloister::devices::virtio
