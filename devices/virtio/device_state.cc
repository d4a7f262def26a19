// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/device_state.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

using memory::GuestAddress;
using memory::ShareRefusal;

namespace {

constexpr size_t kMaxQueues = 64;
constexpr uint8_t kDriverBits = kStatusAcknowledge | kStatusDriver |
                                kStatusDriverOk | kStatusFeaturesOk |
                                kStatusFailed;

uint32_t Word(uint64_t features, uint32_t word) {
  return word < 2 ? static_cast<uint32_t>(features >> (word * 32)) : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceState>> DeviceState::Create(
    std::unique_ptr<VirtioDevice> device, memory::SharedView& view,
    const Options& options, Listener& listener, base::Logger& log) {
  const size_t count = device->queue_sizes().size();
  if (count == 0 || count > kMaxQueues) {
    return absl::InvalidArgumentError(
        absl::StrCat(device->name(), ": ", count, " queues"));
  }
  std::unique_ptr<DeviceState> state(
      new DeviceState(std::move(device), view, options, listener, log));
  for (size_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(base::EventFd kick, base::EventFd::Create());
    state->kicks_.push_back(std::move(kick));
  }
  return state;
}

DeviceState::DeviceState(std::unique_ptr<VirtioDevice> device,
                         memory::SharedView& view, const Options& options,
                         Listener& listener, base::Logger& log)
    : view_(view),
      options_(options),
      listener_(listener),
      log_(log),
      device_(std::move(device)) {
  offered_ = device_->features() | options_.ring_features | kFeatureVersion1 |
             kFeatureAccessPlatform;
  for (uint16_t size : device_->queue_sizes()) {
    queues_.push_back({.max_size = size, .size = size});
  }
  device_->ReadConfig(0, absl::MakeSpan(config_seen_));
}

uint8_t DeviceState::status() const {
  // In this order: once the reset is seen done, so are its effects.
  if (resetting_.load(std::memory_order_acquire)) return status_before_reset_;
  return status_ | (needs_reset_.load() ? kStatusNeedsReset : 0);
}

void DeviceState::WriteStatus(uint8_t value) {
  if (resetting_.load(std::memory_order_acquire)) {
    if (value != 0) bad_writes_.Add();
    return;
  }
  if (value == 0) return Reset();
  if ((status_ & ~value) != 0) {
    bad_writes_.Add();
    return;
  }
  const uint8_t added = value & kDriverBits & ~status_;
  status_ |= added & (kStatusAcknowledge | kStatusDriver | kStatusFailed);
  if ((added & kStatusFeaturesOk) != 0) NegotiateFeatures();
  if ((added & kStatusDriverOk) == 0) return;
  if ((status_ & kStatusFeaturesOk) == 0) {
    bad_writes_.Add();
    return;
  }
  status_ |= kStatusDriverOk;
  Activate();
}

void DeviceState::NegotiateFeatures() {
  const bool known = (accepted_ & ~offered_) == 0;
  const bool modern = (accepted_ & kFeatureVersion1) != 0;
  const bool platform = (accepted_ & kFeatureAccessPlatform) != 0;
  if (known && modern && (platform || !options_.require_access_platform)) {
    device_->FeaturesAccepted(accepted_);
    status_ |= kStatusFeaturesOk;
    return;
  }
  features_refused_.Add();
  log_.Warning(
      absl::StrCat(device_->name(), ": the driver's features are refused: ",
                   !known    ? "it accepts what was not offered"
                   : !modern ? "it does not accept VIRTIO_F_VERSION_1"
                             : "it does not accept VIRTIO_F_ACCESS_PLATFORM"));
}

void DeviceState::Activate() {
  activations_.Add();
  activated_ = true;
  live_.store(true);
  absl::StatusOr<Activation> activation = PrepareActivation();
  absl::Status status = activation.ok()
                            ? device_->Activate(*std::move(activation))
                            : std::move(activation).status();
  if (!status.ok()) NeedsReset(status);
}

absl::StatusOr<Activation> DeviceState::PrepareActivation() {
  Activation activation;
  activation.features = accepted_;
  activation.interrupts = this;
  for (uint16_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i].enabled) continue;
    QueueConfig config;
    config.size = queues_[i].size;
    config.desc = GuestAddress(queues_[i].desc);
    config.driver = GuestAddress(queues_[i].driver);
    config.device = GuestAddress(queues_[i].device);
    config.packed = (accepted_ & kFeatureRingPacked) != 0;
    config.indirect = (accepted_ & kFeatureIndirect) != 0;
    config.event_idx = (accepted_ & kFeatureEventIdx) != 0;
    ASSIGN_OR_RETURN(std::unique_ptr<Queue> queue,
                     Queue::Create(config, view_));
    activation.queues.push_back({i, std::move(queue), &kicks_[i]});
  }
  return activation;
}

void DeviceState::Reset() {
  resets_.Add();
  status_before_reset_ = status();
  live_.store(false);
  resetting_.store(true);
  status_ = 0;
  accepted_ = 0;
  for (QueueRegisters& queue : queues_) {
    queue = {.max_size = queue.max_size, .size = queue.max_size};
  }
  if (!std::exchange(activated_, false)) return OnResetDone();
  device_->Reset([this] { OnResetDone(); });
}

void DeviceState::OnResetDone() {
  needs_reset_.store(false);
  listener_.ResetDone();
  base::MutexLock lock(&reset_mutex_);
  resetting_.store(false, std::memory_order_release);
  reset_done_.SignalAll();
}

bool DeviceState::WaitForReset(std::chrono::steady_clock::time_point deadline) {
  base::MutexLock lock(&reset_mutex_);
  while (resetting_.load(std::memory_order_acquire)) {
    if (!reset_done_.WaitUntil(&reset_mutex_, deadline)) {
      return !resetting_.load(std::memory_order_acquire);
    }
  }
  return true;
}

uint32_t DeviceState::OfferedFeatures(uint32_t word) const {
  return Word(offered_, word);
}

uint32_t DeviceState::AcceptedFeatures(uint32_t word) const {
  return Word(accepted_, word);
}

void DeviceState::AcceptFeatures(uint32_t word, uint32_t value) {
  const bool late = (status_ & kStatusFeaturesOk) != 0 ||
                    resetting_.load(std::memory_order_acquire);
  if (late || (word >= 2 && value != 0)) {
    bad_writes_.Add();
    return;
  }
  if (word >= 2) return;
  const uint32_t shift = word * 32;
  accepted_ &= ~(uint64_t{UINT32_MAX} << shift);
  accepted_ |= uint64_t{value} << shift;
}

DeviceState::QueueRegisters DeviceState::queue(uint16_t index) const {
  return index < queues_.size() ? queues_[index] : QueueRegisters();
}

// Whether the driver may set up the queue now.
bool DeviceState::Writable(uint16_t index) {
  if (index < queues_.size() && (status_ & kStatusDriverOk) == 0 &&
      !resetting_.load(std::memory_order_acquire)) {
    return true;
  }
  bad_writes_.Add();
  return false;
}

void DeviceState::SetQueueSize(uint16_t index, uint16_t size) {
  if (!Writable(index)) return;
  if (size == 0 || size > queues_[index].max_size) {
    bad_writes_.Add();
    return;
  }
  queues_[index].size = size;
}

void DeviceState::SetQueueEnabled(uint16_t index, bool enabled) {
  if (Writable(index)) queues_[index].enabled = enabled;
}

void DeviceState::SetQueueAddress(uint16_t index, Ring ring, bool high,
                                  uint32_t value) {
  if (!Writable(index)) return;
  QueueRegisters& queue = queues_[index];
  uint64_t& address = ring == Ring::kDesc     ? queue.desc
                      : ring == Ring::kDriver ? queue.driver
                                              : queue.device;
  const uint32_t shift = high ? 32 : 0;
  address &= ~(uint64_t{UINT32_MAX} << shift);
  address |= uint64_t{value} << shift;
}

// By content: a driver that reads a field in two pieces sees another generation
// whenever they do not belong together, however late the device tells of it.
uint8_t DeviceState::ConfigGeneration() {
  std::array<uint8_t, 128> now = {};
  device_->ReadConfig(0, absl::MakeSpan(now));
  if (now != config_seen_) {
    config_seen_ = now;
    ++generation_;
  }
  return generation_;
}

void DeviceState::Kick(uint16_t index) {
  if (index >= kicks_.size()) {
    bad_writes_.Add();
    return;
  }
  exit_kicks_.Add();
  kicks_[index].Signal();
}

void DeviceState::SignalQueue(uint16_t queue) {
  if (live_.load(std::memory_order_acquire)) listener_.QueueInterrupt(queue);
}

void DeviceState::SignalConfig() {
  if (live_.load(std::memory_order_acquire)) listener_.ConfigInterrupt();
}

void DeviceState::NeedsReset(const absl::Status& reason) {
  std::optional<QueueError> error = QueueErrorOf(reason);
  reasons_[error.has_value() ? static_cast<size_t>(*error) : kQueueErrorCount]
      .Add();
  std::optional<ShareRefusal> refusal = memory::ShareRefusalOf(reason);
  if (refusal.has_value()) not_shared_[static_cast<size_t>(*refusal)].Add();
  log_.Warning(absl::StrCat(device_->name(),
                            ": the device needs a reset: ", reason.message()));
  needs_reset_.store(true);
  SignalConfig();
}

DeviceState::Counters DeviceState::counters() const {
  Counters counters;
  counters.activations = activations_.value();
  counters.resets = resets_.value();
  counters.features_refused = features_refused_.value();
  counters.bad_writes = bad_writes_.value();
  counters.kicks = exit_kicks_.value();
  for (size_t i = 0; i < reasons_.size(); ++i) {
    counters.needs_reset[i] = reasons_[i].value();
  }
  for (size_t i = 0; i < not_shared_.size(); ++i) {
    counters.not_shared[i] = not_shared_[i].value();
  }
  return counters;
}

}  // namespace cloister::devices::virtio
