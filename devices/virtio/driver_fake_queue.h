// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_QUEUE_H_
#define CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_QUEUE_H_

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/devices/virtio/queue.h"

namespace cloister::devices::virtio {

// A queue whose driver does something at the worst moment: after the device
// found no request, and before it asked for kicks. For FakeDriver's `wrap`.
class LateQueue : public Queue {
 public:
  // What the driver does then, on the device's thread; true if the device is to
  // be told that there is more, whether there is or not.
  using Moment = std::function<bool()>;

  // A moment at which the driver does `act`, the first time only, and how to
  // wait until it has. Devices may look again for as long as they have the
  // queue.
  struct First {
    Moment moment;
    std::shared_future<void> done;
  };
  static First Once(std::function<void()> act) {
    struct State {
      bool over = false;  // the device's thread's
      std::promise<void> done;
    };
    auto state = std::make_shared<State>();
    std::shared_future<void> done = state->done.get_future().share();
    return {[state, act = std::move(act)] {
              if (std::exchange(state->over, true)) return false;
              act();
              state->done.set_value();
              return false;
            },
            done};
  }

  LateQueue(std::unique_ptr<Queue> queue, Moment moment)
      : queue_(std::move(queue)), moment_(std::move(moment)) {}

  absl::StatusOr<std::optional<Chain>> Pop() override { return queue_->Pop(); }
  absl::StatusOr<std::optional<Chain>> PopUnleased() override {
    return queue_->PopUnleased();
  }
  void Unpop(Chain chain) override { queue_->Unpop(std::move(chain)); }
  absl::Status PushAll(absl::Span<UsedChain> used) override {
    return queue_->PushAll(used);
  }
  absl::StatusOr<bool> NeedsInterrupt() override {
    return queue_->NeedsInterrupt();
  }
  absl::Status DisableKicks() override { return queue_->DisableKicks(); }
  absl::StatusOr<bool> EnableKicks() override {
    const bool pretend = moment_();
    absl::StatusOr<bool> more = queue_->EnableKicks();
    if (more.ok() && pretend) return true;
    return more;
  }
  uint16_t size() const override { return queue_->size(); }

 private:
  const std::unique_ptr<Queue> queue_;
  const Moment moment_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_QUEUE_H_
