// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/device_runner.h"

#include <sys/epoll.h>

#include <utility>

#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

absl::Status DeviceRunner::Activate(Activation activation) {
  activated_ = true;
  // std::function wants something that can be copied.
  auto shared = std::make_shared<Activation>(std::move(activation));
  loop().Post([this, shared] { Start(std::move(*shared)); });
  return absl::OkStatus();
}

void DeviceRunner::Reset(std::function<void()> done) {
  if (!activated_) {
    done();
    return;
  }
  activated_ = false;
  loop().Post([this, done = std::move(done)] {
    Stop();
    done();
  });
}

void DeviceRunner::Start(Activation activation) {
  activation_ = std::move(activation);
  broken_ = false;
  ++generation_;
  again_ = 0;
  if (!Check(handler_->OnStart())) return;
  for (const Activation::ActiveQueue& active : activation_->queues) {
    const uint16_t index = active.index;
    const base::EventFd* kick = active.kick;
    if (!Check(loop().Add(kick->fd(), EPOLLIN, [this, kick, index](uint32_t) {
          kick->Drain();
          if (this->active()) handler_->OnKick(index);
        }))) {
      return;
    }
    // Buffers may be there already, without a kick to tell.
    Again(index);
  }
}

void DeviceRunner::Unwatch() {
  for (const Activation::ActiveQueue& active : activation_->queues) {
    loop().Remove(active.kick->fd());
  }
}

void DeviceRunner::Stop() {
  if (!broken_) {
    Unwatch();
    handler_->OnStop();
  }
  activation_.reset();
}

bool DeviceRunner::Check(const absl::Status& status) {
  if (status.ok()) return true;
  if (!active()) return false;
  activation_->interrupts->NeedsReset(status);
  broken_ = true;
  Unwatch();
  handler_->OnStop();
  return false;
}

Queue* DeviceRunner::queue(uint16_t index) {
  if (!active()) return nullptr;
  for (const Activation::ActiveQueue& active : activation_->queues) {
    if (active.index == index) return active.queue.get();
  }
  return nullptr;
}

void DeviceRunner::Signal(uint16_t index) {
  Queue* queue = this->queue(index);
  if (queue == nullptr) return;
  absl::StatusOr<bool> wanted = queue->NeedsInterrupt();
  if (Check(wanted.status()) && *wanted) {
    activation_->interrupts->SignalQueue(index);
  }
}

void DeviceRunner::Again(uint16_t index) {
  const uint64_t bit = uint64_t{1} << index;
  if ((again_ & bit) != 0) return;
  again_ |= bit;
  loop().Post([this, index, bit, generation = generation_] {
    if (generation != generation_) return;
    again_ &= ~bit;
    if (active()) handler_->OnKick(index);
  });
}

absl::StatusOr<bool> DeviceRunner::ServeTurn(
    Queue& queue, uint16_t index,
    absl::FunctionRef<absl::StatusOr<Next>(Queue&, Chain)> serve) {
  RETURN_IF_ERROR(queue.DisableKicks());
  for (int served = 0; served < kTurn;) {
    ASSIGN_OR_RETURN(std::optional<Chain> chain, queue.Pop());
    if (!chain.has_value()) {
      ASSIGN_OR_RETURN(bool more, queue.EnableKicks());
      if (!more) return true;
      RETURN_IF_ERROR(queue.DisableKicks());
      ++served;  // a driver that only pretends must not hold the worker
      continue;
    }
    ASSIGN_OR_RETURN(Next next, serve(queue, *std::move(chain)));
    if (next == Next::kStop) return true;
    ++served;
  }
  Again(index);
  return false;
}

void DeviceRunner::Serve(
    uint16_t index,
    absl::FunctionRef<absl::StatusOr<Next>(Queue&, Chain)> serve) {
  Queue* queue = this->queue(index);
  if (queue == nullptr) return;
  absl::StatusOr<bool> served = ServeTurn(*queue, index, serve);
  if (Check(served.status())) Signal(index);
}

}  // namespace cloister::devices::virtio
