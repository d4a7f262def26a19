// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DEVICE_STATE_H_
#define CLOISTER_DEVICES_VIRTIO_DEVICE_STATE_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/event_fd.h"
#include "cloister/base/log.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/virtio/counter.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/queue_error.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// Device status bits (virtio 1.3, section 2.1).
inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

// Feature bits that every device has (section 6).
inline constexpr uint64_t kFeatureIndirect = uint64_t{1} << 28;
inline constexpr uint64_t kFeatureEventIdx = uint64_t{1} << 29;
inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kFeatureAccessPlatform = uint64_t{1} << 33;
inline constexpr uint64_t kFeatureRingPacked = uint64_t{1} << 34;

// The registers that a virtio device has under every transport: status,
// features, queues, configuration. Negotiates with the driver, activates and
// resets the device behind it.
//
// The driver's side (everything but counters and what WaitForReset says) is
// called by one thread at a time: the transport holds its lock. The device's
// side comes from the device's own threads and takes no lock.
class DeviceState : private Interrupts {
 public:
  // Interrupts for the transport to deliver. From any thread, and, from within
  // a driver's call, with the transport's lock held: must not call back.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void QueueInterrupt(uint16_t queue) = 0;
    virtual void ConfigInterrupt() = 0;
    // The device is reset: no interrupt of before may be pending after this.
    virtual void ResetDone() = 0;
  };

  struct Options {
    // A confidential VM: FEATURES_OK only for drivers that accept
    // ACCESS_PLATFORM: others would use memory that is not shared.
    bool require_access_platform = false;
    // Ring features to offer.
    uint64_t ring_features =
        kFeatureIndirect | kFeatureEventIdx | kFeatureRingPacked;
  };
  struct QueueRegisters {
    uint16_t max_size = 0;
    uint16_t size = 0;
    bool enabled = false;
    uint64_t desc = 0;
    uint64_t driver = 0;
    uint64_t device = 0;
  };
  enum class Ring { kDesc, kDriver, kDevice };
  struct Counters {
    uint64_t activations = 0;
    uint64_t resets = 0;
    uint64_t features_refused = 0;  // FEATURES_OK not granted
    uint64_t bad_writes = 0;        // registers written out of turn
    uint64_t kicks = 0;             // through an exit, not an ioeventfd
    // DEVICE_NEEDS_RESET, by reason; the last is for other errors.
    std::array<uint64_t, kQueueErrorCount + 1> needs_reset = {};
    // Of those, what was wrong with memory that is not shared.
    std::array<uint64_t, memory::kShareRefusalCount> not_shared = {};
  };

  // `view`, `listener` and `log` outlive this. ResourceExhausted without
  // descriptors; InvalidArgument for a device without queues, or too many.
  static absl::StatusOr<std::unique_ptr<DeviceState>> Create(
      std::unique_ptr<VirtioDevice> device, memory::SharedView& view,
      const Options& options, Listener& listener, base::Logger& log);
  DeviceState(const DeviceState&) = delete;
  DeviceState& operator=(const DeviceState&) = delete;
  // Destroys the device, active or not.
  ~DeviceState() override = default;

  VirtioDevice& device() { return *device_; }

  // --- the driver's side ---

  // While a reset is under way the status stays what it was, without the bits
  // that the driver would wait for; then it reads 0.
  uint8_t status() const;
  // 0 resets. Otherwise bits are added, never taken away: other writes, and all
  // while a reset is under way, are counted and ignored.
  void WriteStatus(uint8_t value);

  uint32_t OfferedFeatures(uint32_t word) const;
  uint32_t AcceptedFeatures(uint32_t word) const;
  // Ignored once FEATURES_OK is set, and while a reset is under way.
  void AcceptFeatures(uint32_t word, uint32_t value);

  uint16_t queue_count() const { return static_cast<uint16_t>(queues_.size()); }
  // All zero for a queue that does not exist.
  QueueRegisters queue(uint16_t index) const;
  // Counted and ignored where there is no such queue, or after DRIVER_OK; a
  // size that the device does not have, too.
  void SetQueueSize(uint16_t index, uint16_t size);
  void SetQueueEnabled(uint16_t index, bool enabled);
  void SetQueueAddress(uint16_t index, Ring ring, bool high, uint32_t value);

  // Differs from before if the configuration space does.
  uint8_t ConfigGeneration();
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) {
    device_->ReadConfig(offset, data);
  }
  void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) {
    device_->WriteConfig(offset, data);
  }

  // A notification that came as an exit.
  void Kick(uint16_t index);
  // What an ioeventfd signals instead. Lives as long as this.
  const base::EventFd& kick(uint16_t index) const { return kicks_[index]; }

  // --- any thread ---

  // Blocks until no reset is under way; false after `deadline`.
  bool WaitForReset(std::chrono::steady_clock::time_point deadline);
  Counters counters() const;

 private:
  DeviceState(std::unique_ptr<VirtioDevice> device, memory::SharedView& view,
              const Options& options, Listener& listener, base::Logger& log);

  void Reset();
  void OnResetDone();
  void NegotiateFeatures();
  void Activate();
  absl::StatusOr<Activation> PrepareActivation();
  bool Writable(uint16_t index);

  // Interrupts.
  void SignalQueue(uint16_t queue) override;
  void SignalConfig() override;
  void NeedsReset(const absl::Status& reason) override;

  memory::SharedView& view_;
  const Options options_;
  Listener& listener_;
  base::Logger& log_;

  uint8_t status_ = 0;
  uint8_t status_before_reset_ = 0;
  bool activated_ = false;  // and not reset since
  uint64_t offered_ = 0;
  uint64_t accepted_ = 0;
  std::vector<QueueRegisters> queues_;
  std::array<uint8_t, 128> config_seen_ = {};
  uint8_t generation_ = 0;

  // Written by the device's threads too.
  std::atomic<bool> live_{false};  // between Activate and Reset
  std::atomic<bool> needs_reset_{false};
  std::atomic<bool> resetting_{false};
  base::Mutex reset_mutex_;  // for WaitForReset
  base::CondVar reset_done_;

  Counter activations_;
  Counter resets_;
  Counter features_refused_;
  Counter bad_writes_;
  Counter exit_kicks_;
  std::array<Counter, kQueueErrorCount + 1> reasons_;
  std::array<Counter, memory::kShareRefusalCount> not_shared_;

  std::vector<base::EventFd> kicks_;
  // Last: its threads use the rest until it is gone.
  std::unique_ptr<VirtioDevice> device_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DEVICE_STATE_H_
