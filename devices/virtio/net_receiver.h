// SPDX-License-Identifier: Apache-2.0
//
// Internal to the network device.
#ifndef CLOISTER_DEVICES_VIRTIO_NET_RECEIVER_H_
#define CLOISTER_DEVICES_VIRTIO_NET_RECEIVER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/net_counters.h"
#include "cloister/devices/virtio/net_header.h"
#include "cloister/devices/virtio/net_port.h"

namespace cloister::devices::virtio {

// Moves packets of one port into one receive queue. On the worker only.
//
// A packet goes straight into the driver's first buffer; what that cannot hold
// lands in a buffer here and is copied to the next ones (MRG_RXBUF). Under a
// bandwidth limit, where the size must be known before the packet may pass, all
// of it lands here first.
class NetReceiver {
 public:
  // Why packets are not looked for, if they are not.
  enum class Wait { kNothing, kBuffers, kLimiter, kStopped };

  NetReceiver(DeviceRunner& runner, NetPort& port, NetCounters& counters,
              std::function<void()> failed)
      : runner_(runner),
        port_(port),
        counters_(counters),
        failed_(std::move(failed)),
        overflow_(NetHeader::kSize + kNetMaxPacket) {}

  void Start(uint16_t queue, FlowLimiter* limiter);
  // Drops the packet on its way, and its buffers.
  void Stop();

  // Receives until the port has no more, something must be waited for, or a
  // turn is over. The port is worth watching iff wait() is kNothing then.
  void Run();
  Wait wait() const { return wait_; }

 private:
  // What one attempt came to.
  enum class Step { kDelivered, kEmpty, kWait };

  absl::Status RunTurn(Queue& queue);
  absl::StatusOr<Step> ReceiveOne(Queue& queue);
  absl::StatusOr<Step> ReceiveDirectly(Queue& queue);
  absl::StatusOr<Step> ReceiveHere();
  Step OnError(int error);
  // Brings the packet on its way into buffers of the driver.
  absl::StatusOr<Step> Deliver(Queue& queue);
  bool HasNoRoomForMore(const Queue& queue) const;
  absl::Status PushAll(Queue& queue);
  absl::Status PushChains(Queue& queue);
  absl::Status TakeBack(Queue& queue);
  void UnpopChains(Queue& queue);
  absl::Status DropPacket(Queue& queue);
  absl::StatusOr<bool> PopBuffer(Queue& queue);
  bool Mergeable() const { return runner_.Has(kNetMrgRxbuf); }

  DeviceRunner& runner_;
  NetPort& port_;
  NetCounters& counters_;
  const std::function<void()> failed_;  // the port reports an error

  uint16_t queue_ = 0;
  FlowLimiter* limiter_ = nullptr;
  Wait wait_ = Wait::kStopped;
  bool kicks_on_ = true;

  // The packet on its way, header included; none if size_ is 0. Its first
  // direct_ bytes are in chains_[0], the rest at the start of overflow_.
  size_t size_ = 0;
  size_t direct_ = 0;
  bool admitted_ = false;  // by the limiter
  std::vector<uint8_t> overflow_;
  std::vector<UsedChain> chains_;
  uint64_t capacity_ = 0;  // of chains_
  uint64_t entries_ = 0;   // of the ring that they take
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_RECEIVER_H_
