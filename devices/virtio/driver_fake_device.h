// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_DEVICE_H_
#define CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_DEVICE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/event_fd.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/driver_fake.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/queue.h"

namespace cloister::devices::virtio {

// Counts what a device tells its driver, and lets a test wait for it. The
// waits end early, with false, after ten seconds. Thread-safe.
class FakeInterrupts : public Interrupts {
 public:
  void SignalQueue(uint16_t queue) override;
  void SignalConfig() override;
  void NeedsReset(const absl::Status& reason) override;

  uint64_t queue_signals(uint16_t queue) const;
  uint64_t config_signals() const;
  // The first reason; nullopt while all is well.
  std::optional<absl::Status> reset_reason() const;

  bool WaitForQueue(uint16_t queue, uint64_t signals);
  bool WaitForConfig(uint64_t signals);
  bool WaitForReset();

 private:
  template <typename Condition>
  bool WaitFor(Condition condition);

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::map<uint16_t, uint64_t> queues_ ABSL_GUARDED_BY(mutex_);
  uint64_t config_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> reason_ ABSL_GUARDED_BY(mutex_);
};

// Drives a VirtioDevice without a transport: negotiates, makes the queues,
// activates and resets. One thread at a time.
class FakeDriver {
 public:
  struct Options {
    bool packed = false;
    bool indirect = true;
    bool event_idx = false;
    // The device's features to accept.
    uint64_t features = ~uint64_t{0};
    // Caps the size of every queue.
    uint16_t queue_size = 256;
    // Only these queues are enabled; empty: all.
    std::vector<uint16_t> queues = {};
    // If set, what the device gets instead of each queue.
    std::function<std::unique_ptr<Queue>(uint16_t, std::unique_ptr<Queue>)>
        wrap = nullptr;
  };

  // Both must outlive the driver.
  FakeDriver(VirtioDevice& device, FakeRam& ram, Options options);
  FakeDriver(VirtioDevice& device, FakeRam& ram)
      : FakeDriver(device, ram, Options()) {}
  // Resets the device if it is active.
  ~FakeDriver();

  // DRIVER_OK, with fresh rings and interrupts.
  absl::Status Activate();
  // Returns once the device is done. False if that took ten seconds.
  bool Reset();

  DriverFake& queue(uint16_t index);
  FakeInterrupts& interrupts() { return *interrupts_; }
  void Kick(uint16_t queue);

  // One request from start to end: offers it, kicks, and waits for an interrupt
  // until it is used. Nothing else may be under way in the queue. Returns the
  // bytes written; DeadlineExceeded after ten seconds; the reason if the device
  // needs a reset.
  absl::StatusOr<uint32_t> Run(uint16_t queue,
                               absl::Span<const DriverFake::Buffer> buffers,
                               bool indirect = false);
  // As the last step of Run: waits until something was used.
  absl::StatusOr<DriverFake::Used> WaitUsed(uint16_t queue);

  // Little-endian, from the device's configuration space.
  uint64_t ReadConfig(uint64_t offset, size_t size);

 private:
  struct Line {
    std::unique_ptr<DriverFake> driver;
    base::EventFd kick;
  };

  VirtioDevice& device_;
  FakeRam& ram_;
  const Options options_;
  // Kept until the device is gone, as a transport does.
  std::vector<std::unique_ptr<FakeInterrupts>> old_interrupts_;
  std::unique_ptr<FakeInterrupts> interrupts_;
  std::map<uint16_t, Line> lines_;
  bool active_ = false;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_DEVICE_H_
