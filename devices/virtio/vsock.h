// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/vsock_counters.h"
#include "cloister/devices/virtio/vsock_listener.h"
#include "cloister/devices/virtio/vsock_muxer.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {

// The socket device (virtio 1.3, section 5.10), its host side Unix sockets by
// Firecracker's convention: a client of `path` says "CONNECT <port>\n", reads
// "OK <its port>\n" once the guest has accepted, and from then on talks to the
// guest's port; a guest that connects to port N of CID 2 reaches whoever
// listens at `path`_N. Streams only. Every packet is believed only as far as it
// was checked; what breaks the rules is answered with a reset.
class Vsock : public VirtioDevice, private DeviceRunner::Handler {
 public:
  struct Options {
    std::string name = "vsock0";
    uint64_t cid = 3;  // the guest's
    std::string path;
    size_t max_connections = 256;
    std::chrono::milliseconds patience = std::chrono::seconds(2);
    VsockDrain drain;
    RateLimiterConfig rx_limit;  // towards the guest
    RateLimiterConfig tx_limit;
  };

  // Listens at options.path until destroyed. InvalidArgument for a CID that no
  // guest can have and for invalid limits; errors of VsockListener.
  static absl::StatusOr<std::unique_ptr<Vsock>> Create(
      Options options, std::unique_ptr<Worker> worker);
  ~Vsock() override { runner_.Shutdown(); }

  absl::string_view name() const override { return options_.name; }
  uint32_t type() const override { return 19; }
  uint64_t features() const override { return 0; }
  absl::Span<const uint16_t> queue_sizes() const override;
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) override;
  void WriteConfig(uint64_t, absl::Span<const uint8_t>) override {}
  absl::Status Activate(Activation activation) override {
    return runner_.Activate(std::move(activation));
  }
  void Reset(std::function<void()> done) override {
    runner_.Reset(std::move(done));
  }

  // Any thread.
  const VsockCounters& counters() const { return counters_; }
  uint64_t rx_throttled() const { return rx_limiter_->throttled(); }
  uint64_t tx_throttled() const { return tx_limiter_->throttled(); }
  absl::Status UpdateRxLimit(const RateLimiterUpdate& update) {
    return rx_limiter_->Update(update);
  }
  absl::Status UpdateTxLimit(const RateLimiterUpdate& update) {
    return tx_limiter_->Update(update);
  }

 private:
  Vsock(Options options, std::unique_ptr<Worker> worker)
      : options_(std::move(options)), runner_(std::move(worker), this) {}
  absl::Status OnStart() override;
  void OnKick(uint16_t queue) override;
  void OnStop() override;

  void RunTransmit();
  absl::StatusOr<DeviceRunner::Next> TakePacket(Queue& queue, Chain chain);
  // Brings packets to the guest for as long as there are any, and room.
  void RunReceive();
  absl::Status ReceiveTurn(Queue& queue);
  // False if there is no use in going on.
  absl::StatusOr<bool> ReceiveOne(Queue& queue);

  const Options options_;
  VsockCounters counters_;
  std::unique_ptr<VsockListener> listener_;

  DeviceRunner runner_;
  std::unique_ptr<FlowLimiter> rx_limiter_;
  std::unique_ptr<FlowLimiter> tx_limiter_;
  std::unique_ptr<VsockMuxer> muxer_;
  bool kicks_on_ = true;  // of the receive queue
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_H_
