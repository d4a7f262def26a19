// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_WORKER_H_
#define CLOISTER_DEVICES_VIRTIO_WORKER_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"

namespace cloister::devices::virtio {

// A thread that runs one device's event loop, so that a slow device delays no
// other and no vCPU. All state of an active device lives on it.
class Worker {
 public:
  // Starts the thread under `name` (at most 15 characters are shown by the
  // kernel). `on_start`, if set, runs first on the thread (a seccomp filter).
  static absl::StatusOr<std::unique_ptr<Worker>> Create(
      const std::string& name, std::function<void()> on_start = nullptr);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  // As Stop.
  ~Worker();

  // Stops the loop and joins; the loop itself stays until this is gone. May be
  // called again. Not on the worker's own thread.
  void Stop();

  base::EventLoop& loop() { return *loop_; }
  bool IsCurrent() const {
    return std::this_thread::get_id() == thread_.get_id();
  }

 private:
  explicit Worker(std::unique_ptr<base::EventLoop> loop)
      : loop_(std::move(loop)) {}

  std::unique_ptr<base::EventLoop> loop_;
  std::thread thread_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_WORKER_H_
