// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_TARGET_H_
#define CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_TARGET_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/devices/virtio/device.h"

namespace cloister::devices::virtio {

// A device without threads for tests of what is before devices: keeps its
// activation, serves a queue when it is told to, and ends a reset then, too.
class FakeTarget : public VirtioDevice {
 public:
  static constexpr uint64_t kFeatures = 0x21;

  absl::string_view name() const override { return "fake0"; }
  uint32_t type() const override { return 42; }
  uint64_t features() const override { return kFeatures; }
  absl::Span<const uint16_t> queue_sizes() const override { return sizes; }
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) override {
    for (size_t i = 0; i < data.size(); ++i) {
      const bool inside = offset < config.size() && i < config.size() - offset;
      data[i] = inside ? config[offset + i] : 0;
    }
  }
  void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) override {
    for (size_t i = 0; i < data.size(); ++i) {
      if (offset >= config.size() || i >= config.size() - offset) return;
      config[offset + i] = data[i];
    }
  }
  void FeaturesAccepted(uint64_t features) override { accepted = features; }
  absl::Status Activate(Activation given) override {
    ++activations;
    activation = std::move(given);
    return activate_status;
  }
  void Reset(std::function<void()> done) override {
    ++resets;
    activation.reset();
    if (hold_reset) {
      reset_done = std::move(done);
    } else {
      done();
    }
  }

  // Uses up all requests of an active queue, interrupts as the driver wants,
  // and reports what the driver does wrong.
  void Serve(uint16_t index) {
    if (!activation.has_value()) return;
    for (Activation::ActiveQueue& active : activation->queues) {
      if (active.index != index) continue;
      active.kick->Drain();
      absl::Status status = ServeQueue(*active.queue, index);
      if (status.ok()) return;
      activation->interrupts->NeedsReset(status);
      activation.reset();
      return;
    }
  }

  std::vector<uint16_t> sizes = {8, 16};
  std::vector<uint8_t> config = {1, 2, 3, 4, 5, 6, 7, 8};
  absl::Status activate_status;
  bool hold_reset = false;

  std::optional<Activation> activation;
  std::function<void()> reset_done;
  uint64_t accepted = 0;
  int activations = 0;
  int resets = 0;
  uint64_t requests = 0;

 private:
  absl::Status ServeQueue(Queue& queue, uint16_t index) {
    for (;;) {
      absl::StatusOr<std::optional<Chain>> chain = queue.Pop();
      if (!chain.ok()) return chain.status();
      if (!chain->has_value()) break;
      ++requests;
      const std::vector<uint8_t> ones(
          std::min<uint64_t>((*chain)->writable_size(), 4096), 1);
      absl::Status status = (*chain)->Write(0, ones);
      if (!status.ok()) return status;
      status =
          queue.Push(**std::move(chain), static_cast<uint32_t>(ones.size()));
      if (!status.ok()) return status;
    }
    absl::StatusOr<bool> wanted = queue.NeedsInterrupt();
    if (!wanted.ok()) return wanted.status();
    if (*wanted) activation->interrupts->SignalQueue(index);
    return queue.EnableKicks().status();
  }
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_TARGET_H_
