// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_NET_H_
#define CLOISTER_DEVICES_VIRTIO_NET_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/rate_limiter_timer.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/net_counters.h"
#include "cloister/devices/virtio/net_mac.h"
#include "cloister/devices/virtio/net_port.h"
#include "cloister/devices/virtio/net_receiver.h"
#include "cloister/devices/virtio/net_sender.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {

// The network device (virtio 1.3, section 5.1) over one port for each pair of
// queues. Its worker moves packets between the ports and guest memory, without
// copies of its own where the driver's buffers allow.
//
// An interface that goes away takes the link down; what the guest sends then is
// dropped and counted.
class Net : public VirtioDevice, private DeviceRunner::Handler {
 public:
  static constexpr int kMaxPairs = 16;
  // Changes of the number of active pairs, each of which takes a lock of the
  // host's whole network: ten at once, and a hundred in a second.
  static constexpr TokenBucketConfig kPairsLimit = {
      10, 0, std::chrono::milliseconds(100)};

  struct Options {
    std::string name = "net0";
    NetMac mac;
    RateLimiterConfig rx_limit;  // towards the guest
    RateLimiterConfig tx_limit;
    // How long to leave a port alone whose reads fail.
    std::chrono::milliseconds retry = std::chrono::milliseconds(100);
    TokenBucketConfig pairs_limit = kPairsLimit;
  };

  // InvalidArgument unless there are 1 to kMaxPairs ports and the limits are
  // valid.
  static absl::StatusOr<std::unique_ptr<Net>> Create(
      Options options, std::vector<std::unique_ptr<NetPort>> ports,
      std::unique_ptr<Worker> worker);
  ~Net() override { runner_.Shutdown(); }

  absl::string_view name() const override { return options_.name; }
  uint32_t type() const override { return 1; }
  uint64_t features() const override;
  absl::Span<const uint16_t> queue_sizes() const override {
    return queue_sizes_;
  }
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) override;
  void WriteConfig(uint64_t, absl::Span<const uint8_t>) override {}
  absl::Status Activate(Activation activation) override {
    return runner_.Activate(std::move(activation));
  }
  void Reset(std::function<void()> done) override {
    runner_.Reset(std::move(done));
  }

  // Any thread.
  const NetMac& mac() const { return options_.mac; }
  bool link_up() const { return link_up_.load(); }
  const NetCounters& counters() const { return counters_; }
  uint64_t rx_throttled() const { return rx_limiter_->throttled(); }
  uint64_t tx_throttled() const { return tx_limiter_->throttled(); }
  RateLimiterConfig rx_limit() const { return rx_limiter_->config(); }
  RateLimiterConfig tx_limit() const { return tx_limiter_->config(); }
  absl::Status UpdateRxLimit(const RateLimiterUpdate& update) {
    return rx_limiter_->Update(update);
  }
  absl::Status UpdateTxLimit(const RateLimiterUpdate& update) {
    return tx_limiter_->Update(update);
  }

 private:
  struct Pair {
    std::unique_ptr<NetPort> port;
    std::unique_ptr<NetReceiver> receiver;
    std::unique_ptr<NetSender> sender;
    uint32_t watched = 0;  // epoll events
  };

  Net(Options options, std::unique_ptr<Worker> worker)
      : options_(std::move(options)), runner_(std::move(worker), this) {}
  void AddPair(std::unique_ptr<NetPort> port);

  absl::Status OnStart() override;
  void OnKick(uint16_t queue) override;
  void OnStop() override;

  size_t UsablePairs() const;
  uint16_t ControlQueue() const;
  absl::Status SetActivePairs(size_t count);
  void StartPair(size_t index);
  void StopPair(Pair& pair);
  void RunReceiver(Pair& pair);
  void RunSender(Pair& pair);
  void OnReady(Pair& pair, uint32_t events);
  void ResumeReceivers();
  void ResumeSenders();
  // Watches the port for what the pair waits for.
  void Watch(Pair& pair);
  void OnReadFailed(Pair& pair);
  void OnGone();
  absl::StatusOr<DeviceRunner::Next> Control(Queue& queue, Chain chain);
  // How many pairs the driver wants active; nullopt for any other command.
  absl::StatusOr<std::optional<uint16_t>> WantedPairs(const Chain& chain);

  const Options options_;
  std::vector<uint16_t> queue_sizes_;
  NetCounters counters_;
  std::atomic<bool> link_up_{true};

  DeviceRunner runner_;
  std::unique_ptr<FlowLimiter> rx_limiter_;
  std::unique_ptr<FlowLimiter> tx_limiter_;
  std::unique_ptr<FlowLimiter> pairs_limiter_;
  std::unique_ptr<RateLimiterTimer> retry_;
  std::vector<Pair> pairs_;
  size_t active_pairs_ = 0;
  size_t rx_turn_ = 0, tx_turn_ = 0;  // of the pairs that wait for a limiter
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_H_
