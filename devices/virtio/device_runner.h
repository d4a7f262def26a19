// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DEVICE_RUNNER_H_
#define CLOISTER_DEVICES_VIRTIO_DEVICE_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {

// Moves a device from the transport's threads to its own worker: what a device
// of which every step is short and synchronous needs between Activate and
// Reset.
//
// The device calls Shutdown in its destructor: once the worker has ended, the
// handler is not called any more. Make it a member before those that use
// loop().
class DeviceRunner {
 public:
  // All of it runs on the worker.
  class Handler {
   public:
    virtual ~Handler() = default;
    // The driver said DRIVER_OK: queues and features are there from now on. An
    // error sets DEVICE_NEEDS_RESET.
    virtual absl::Status OnStart() = 0;
    // There may be requests in a queue: the driver kicked, or Again was called.
    virtual void OnKick(uint16_t queue) = 0;
    // The end of what OnStart began: drop chains, stop watching descriptors.
    // Not to touch guest memory any more.
    virtual void OnStop() = 0;
  };

  // What to do after a request.
  enum class Next {
    kMore,  // serve the next one
    kStop,  // there is no room now: the handler calls Again when there is
  };
  // Requests that one OnKick serves before other events have their turn.
  static constexpr int kTurn = 128;

  // `handler` outlives this.
  DeviceRunner(std::unique_ptr<Worker> worker, Handler* handler)
      : handler_(handler), worker_(std::move(worker)) {}
  DeviceRunner(const DeviceRunner&) = delete;
  DeviceRunner& operator=(const DeviceRunner&) = delete;

  // As VirtioDevice's, and to be called from there.
  absl::Status Activate(Activation activation);
  void Reset(std::function<void()> done);

  // Ends the worker. Not on the worker itself.
  void Shutdown() { worker_->Stop(); }

  // Any thread. Lives as long as this, the worker's end notwithstanding.
  base::EventLoop& loop() { return worker_->loop(); }

  // The rest on the worker only.

  // False before Activate, after Reset, and once the driver broke the rules.
  bool active() const { return activation_.has_value() && !broken_; }
  // Whether the driver accepted the feature with this bit number.
  bool Has(int feature) const { return (features() >> feature & 1) != 0; }
  uint64_t features() const {
    return activation_.has_value() ? activation_->features : 0;
  }
  // Null unless active and enabled by the driver.
  Queue* queue(uint16_t index);
  // Null unless active.
  Interrupts* interrupts() {
    return active() ? activation_->interrupts : nullptr;
  }

  // Calls `serve` for each request of a queue until there is none (the driver
  // is then asked to kick), `serve` says kStop, or a turn is over; interrupts
  // the driver for what was pushed. An error of `serve` breaks the device.
  void Serve(
      uint16_t index,
      absl::FunctionRef<absl::StatusOr<Next>(Queue& queue, Chain chain)> serve);
  // Tells the driver of used buffers, if it wants to know.
  void Signal(uint16_t index);
  // OnKick(index) once more, in a later round of the worker's loop: once for
  // all calls until then, or a driver's kicks would pile up turns before which
  // other events, a reset for one, have to wait.
  void Again(uint16_t index);

  // Reports DEVICE_NEEDS_RESET and stops; false if `status` is not OK.
  bool Check(const absl::Status& status);

 private:
  void Start(Activation activation);
  void Stop();
  void Unwatch();
  // Serves one turn; true when the queue was found empty and kicks are on.
  absl::StatusOr<bool> ServeTurn(
      Queue& queue, uint16_t index,
      absl::FunctionRef<absl::StatusOr<Next>(Queue&, Chain)> serve);

  Handler* const handler_;
  bool activated_ = false;  // the transport's side

  // The worker's.
  std::optional<Activation> activation_;
  bool broken_ = false;
  uint64_t generation_ = 0;  // of activations
  uint64_t again_ = 0;       // queues that are owed a turn: bits

  const std::unique_ptr<Worker> worker_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DEVICE_RUNNER_H_
