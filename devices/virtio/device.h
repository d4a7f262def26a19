// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DEVICE_H_
#define CLOISTER_DEVICES_VIRTIO_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/event_fd.h"
#include "cloister/devices/virtio/queue.h"

namespace cloister::devices::virtio {

// How a device reaches its driver. Thread-safe; never blocks; outlives the
// activation.
class Interrupts {
 public:
  virtual ~Interrupts() = default;
  // Used buffers were added to a queue (ask Queue::NeedsInterrupt first).
  virtual void SignalQueue(uint16_t queue) = 0;
  // The device's configuration space changed: a new generation.
  virtual void SignalConfig() = 0;
  // The driver broke the rules: sets DEVICE_NEEDS_RESET and counts the reason.
  // The device touches its queues no more until Reset.
  virtual void NeedsReset(const absl::Status& reason) = 0;
};

// What a driver agreed to when it set DRIVER_OK (virtio 1.3, section 3.1.1).
struct Activation {
  struct ActiveQueue {
    uint16_t index = 0;  // in the device's list of queues
    std::unique_ptr<Queue> queue;
    // The driver's notifications. Owned by the transport, which keeps it until
    // the device itself is destroyed.
    const base::EventFd* kick = nullptr;
  };
  uint64_t features = 0;
  std::vector<ActiveQueue> queues;  // those that the driver enabled
  Interrupts* interrupts = nullptr;
};

// A virtio device, without a transport: the same under PCI and MMIO.
//
// The transport calls it from vCPU threads, one call at a time; no call may
// block. The device does its work on threads of its own, and must not touch
// guest memory before Activate or after a Reset is done.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // For messages and metrics: "blk0", "net1". Valid as long as the device.
  virtual absl::string_view name() const = 0;
  // The device id of virtio 1.3, section 5: 1 network, 2 block, ...
  virtual uint32_t type() const = 0;
  // The features of this device's type. The transport adds VERSION_1,
  // ACCESS_PLATFORM and the ring features.
  virtual uint64_t features() const = 0;
  // The largest size of each queue, in order; 1 to 64 queues.
  virtual absl::Span<const uint16_t> queue_sizes() const = 0;

  // The device's configuration space; bytes beyond it read as zero and writes
  // there vanish. Any width, any offset. Consistent within one call; the
  // transport's config generation covers several.
  virtual void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) = 0;
  virtual void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) = 0;

  // FEATURES_OK was granted for these: what depends on them in the
  // configuration space may be read from now on.
  virtual void FeaturesAccepted(uint64_t /*features*/) {}

  // DRIVER_OK. An error sets DEVICE_NEEDS_RESET. Never called twice without a
  // Reset in between.
  virtual absl::Status Activate(Activation activation) = 0;

  // Stops: calls `done` once, from any thread, when nothing of the activation
  // is used any more (requests in flight are finished or given up, leases
  // dropped). Also called on devices that are not active: then `done` is called
  // at once.
  virtual void Reset(std::function<void()> done) = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DEVICE_H_
