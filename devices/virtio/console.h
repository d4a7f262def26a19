// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_CONSOLE_H_
#define CLOISTER_DEVICES_VIRTIO_CONSOLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/virtio/counter.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {

// The console device with one port (virtio 1.3, section 5.3): between a
// driver's queues and whatever a serial port could be connected to.
//
// Back-pressure both ways: what the sink has no room for stays in the driver's
// buffer, and input beyond kInputSize is not taken.
class Console : public VirtioDevice, private DeviceRunner::Handler {
 public:
  static constexpr size_t kInputSize = 4096;

  struct Options {
    std::string name = "console0";
    RateLimiterConfig tx_limit;  // from the guest
    // Called on the worker when there is room again after an Enqueue that could
    // not take everything. May call Enqueue.
    std::function<void()> on_input_room;
  };
  struct Counters {
    uint64_t tx_bytes = 0;  // taken by the sink
    uint64_t rx_bytes = 0;  // given to the driver
    uint64_t tx_waits = 0;  // times that the sink had no room
    uint64_t throttled = 0;
    uint64_t emergency_bytes = 0;
  };

  // `sink` outlives the device; it is called on the worker, and on a vCPU's
  // thread for emergency writes, without locks.
  static absl::StatusOr<std::unique_ptr<Console>> Create(
      Options options, SerialSink& sink, std::unique_ptr<Worker> worker);
  ~Console() override { runner_.Shutdown(); }

  absl::string_view name() const override { return options_.name; }
  uint32_t type() const override { return 3; }
  uint64_t features() const override;
  absl::Span<const uint16_t> queue_sizes() const override;
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) override;
  void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) override;
  absl::Status Activate(Activation activation) override {
    return runner_.Activate(std::move(activation));
  }
  void Reset(std::function<void()> done) override {
    runner_.Reset(std::move(done));
  }

  // Any thread.

  // Takes a prefix of `bytes` for the guest; returns its length.
  size_t Enqueue(absl::Span<const uint8_t> bytes);
  // The sink takes output again.
  void OnSinkWritable();
  // The size of the terminal, for the guest.
  void SetSize(uint16_t columns, uint16_t rows);
  absl::Status UpdateLimit(const RateLimiterUpdate& update) {
    return limiter_->Update(update);
  }
  Counters counters() const;

 private:
  Console(Options options, SerialSink& sink, std::unique_ptr<Worker> worker)
      : options_(std::move(options)),
        sink_(sink),
        runner_(std::move(worker), this) {}
  absl::Status OnStart() override;
  void OnKick(uint16_t queue) override;
  void OnStop() override;

  absl::StatusOr<DeviceRunner::Next> Send(Queue& queue, Chain chain);
  // Sends as much of a request as there is room and time for; true if all.
  absl::StatusOr<bool> SendSome(const Chain& chain);
  void RunInput();
  absl::StatusOr<DeviceRunner::Next> Receive(Queue& queue, Chain chain);
  bool HasInput() const;

  const Options options_;
  SerialSink& sink_;
  Counter tx_bytes_, rx_bytes_, tx_waits_, emergency_bytes_;
  std::atomic<uint32_t> size_{0};  // columns, and rows in the high half

  mutable base::Mutex mutex_;
  std::deque<uint8_t> input_ ABSL_GUARDED_BY(mutex_);
  bool cut_short_ ABSL_GUARDED_BY(mutex_) = false;

  DeviceRunner runner_;
  std::unique_ptr<FlowLimiter> limiter_;
  uint64_t sent_ = 0;  // bytes of the request at the front of the queue
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_CONSOLE_H_
