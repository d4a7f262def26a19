// SPDX-License-Identifier: Apache-2.0
//
// Internal to the network device.
#ifndef CLOISTER_DEVICES_VIRTIO_NET_SENDER_H_
#define CLOISTER_DEVICES_VIRTIO_NET_SENDER_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/net_counters.h"
#include "cloister/devices/virtio/net_port.h"

namespace cloister::devices::virtio {

// Takes packets out of one transmit queue and sends them through a port,
// straight from guest memory. On the worker only.
class NetSender {
 public:
  // All outlive the sender. `gone` is called when the port has no interface any
  // more.
  NetSender(DeviceRunner& runner, NetPort& port, NetCounters& counters,
            std::function<void()> gone)
      : runner_(runner),
        port_(port),
        counters_(counters),
        gone_(std::move(gone)) {}

  void Start(uint16_t queue, FlowLimiter* limiter);
  void Stop();

  // Sends what the queue holds, as far as limiter and port let it.
  void Run();
  // The port may have room again.
  void OnWritable();
  bool wants_room() const { return wants_room_; }
  // From now on packets are dropped.
  void SetGone() { is_gone_ = true; }

 private:
  absl::StatusOr<DeviceRunner::Next> SendOne(Queue& queue, Chain chain);
  // True if the port took or refused the packet, false if it has no room.
  absl::StatusOr<bool> Transmit(Chain& chain, uint64_t packet_size);
  bool OnError(int error);

  DeviceRunner& runner_;
  NetPort& port_;
  NetCounters& counters_;
  const std::function<void()> gone_;

  uint16_t queue_ = 0;
  FlowLimiter* limiter_ = nullptr;  // null while stopped
  bool wants_room_ = false;
  bool is_gone_ = false;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_SENDER_H_
