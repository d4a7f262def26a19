// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_RNG_H_
#define CLOISTER_DEVICES_VIRTIO_RNG_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/virtio/counter.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {

// The entropy device (virtio 1.3, section 5.4): the host's random bytes. A
// request gets at most kMaxBytes of them, whatever its size.
//
// A guest that shares what it reads here with nobody still got it from the
// host, in shared memory: the host knows it, and can change it.
class Rng : public VirtioDevice, private DeviceRunner::Handler {
 public:
  static constexpr uint32_t kMaxBytes = 64 * 1024;

  struct Options {
    std::string name = "rng0";
    RateLimiterConfig limit;
    // Fills all of a buffer; an error fails the request. getrandom(2) unless
    // set.
    std::function<absl::Status(absl::Span<uint8_t>)> source;
  };
  struct Counters {
    uint64_t requests = 0;
    uint64_t bytes = 0;
    uint64_t source_errors = 0;
    uint64_t throttled = 0;
  };

  static absl::StatusOr<std::unique_ptr<Rng>> Create(
      Options options, std::unique_ptr<Worker> worker);

  ~Rng() override { runner_.Shutdown(); }

  absl::string_view name() const override { return options_.name; }
  uint32_t type() const override { return 4; }
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
  Counters counters() const;
  absl::Status UpdateLimit(const RateLimiterUpdate& update) {
    return limiter_->Update(update);
  }

 private:
  Rng(Options options, std::unique_ptr<Worker> worker)
      : options_(std::move(options)), runner_(std::move(worker), this) {}
  absl::Status OnStart() override { return absl::OkStatus(); }
  void OnKick(uint16_t queue) override;
  void OnStop() override { limiter_->Cancel(); }
  absl::StatusOr<DeviceRunner::Next> Fill(Queue& queue, Chain chain);

  const Options options_;
  Counter requests_, bytes_, source_errors_;
  DeviceRunner runner_;
  std::unique_ptr<FlowLimiter> limiter_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_RNG_H_
