// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net_receiver.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <optional>
#include <utility>

#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

void NetReceiver::Start(uint16_t queue, FlowLimiter* limiter) {
  queue_ = queue;
  limiter_ = limiter;
  wait_ = Wait::kNothing;
  kicks_on_ = true;
}

void NetReceiver::Stop() {
  wait_ = Wait::kStopped;
  chains_.clear();
  capacity_ = entries_ = size_ = direct_ = 0;
  admitted_ = false;
}

void NetReceiver::Run() {
  Queue* queue = runner_.queue(queue_);
  // A driver need not have set it up: then nobody may wait for packets.
  if (queue == nullptr) wait_ = Wait::kStopped;
  if (wait_ == Wait::kStopped) return;
  wait_ = Wait::kNothing;
  runner_.Check(RunTurn(*queue));  // has announced what it delivered
}

absl::Status NetReceiver::RunTurn(Queue& queue) {
  if (kicks_on_) {
    RETURN_IF_ERROR(queue.DisableKicks());
    kicks_on_ = false;
  }
  for (int i = 0; i < DeviceRunner::kTurn; ++i) {
    ASSIGN_OR_RETURN(Step step, ReceiveOne(queue));
    if (step == Step::kDelivered) {
      // The guest may work on it while the next one comes.
      runner_.Signal(queue_);
      if (wait_ == Wait::kStopped) return absl::OkStatus();
      continue;
    }
    if (wait_ == Wait::kBuffers) {
      ASSIGN_OR_RETURN(bool more, queue.EnableKicks());
      if (!more) {
        kicks_on_ = true;
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(queue.DisableKicks());
      wait_ = Wait::kNothing;
      continue;
    }
    return absl::OkStatus();
  }
  // A packet on its way is not seen by watching the port.
  if (size_ != 0) runner_.Again(queue_);
  return absl::OkStatus();
}

absl::StatusOr<NetReceiver::Step> NetReceiver::ReceiveOne(Queue& queue) {
  if (size_ == 0) {
    const bool limited = limiter_->bandwidth_limited();
    ASSIGN_OR_RETURN(Step step,
                     limited ? ReceiveHere() : ReceiveDirectly(queue));
    if (step != Step::kDelivered) return step;
  }
  if (!admitted_) {
    if (!limiter_->Take(size_ - NetHeader::kSize)) {
      wait_ = Wait::kLimiter;
      return Step::kWait;
    }
    admitted_ = true;
  }
  return Deliver(queue);
}

absl::StatusOr<NetReceiver::Step> NetReceiver::ReceiveDirectly(Queue& queue) {
  // No packet is on its way: no chains are held.
  ASSIGN_OR_RETURN(bool popped, PopBuffer(queue));
  if (!popped) return Step::kWait;
  if (!limiter_->Take(0)) {  // one packet, of any size
    UnpopChains(queue);
    wait_ = Wait::kLimiter;
    return Step::kWait;
  }
  const uint64_t direct_room = std::min<uint64_t>(capacity_, overflow_.size());
  ASSIGN_OR_RETURN(std::vector<struct iovec> iovecs,
                   chains_[0].chain.WritableIovecs(0, direct_room));
  if (iovecs.size() >= IOV_MAX) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a receive buffer of too many pieces");
  }
  // No packet is longer than what has room here.
  iovecs.push_back({overflow_.data(), overflow_.size() - direct_room});
  const ssize_t got = port_.Receive(iovecs);
  if (got < static_cast<ssize_t>(NetHeader::kSize)) {
    limiter_->Return(0);
    const int error = got < 0 ? errno : EIO;
    UnpopChains(queue);
    return OnError(error);
  }
  size_ = got;
  direct_ = std::min<uint64_t>(size_, direct_room);
  admitted_ = true;
  return Step::kDelivered;
}

absl::StatusOr<NetReceiver::Step> NetReceiver::ReceiveHere() {
  const struct iovec whole = {overflow_.data(), overflow_.size()};
  const ssize_t got = port_.Receive({&whole, 1});
  if (got < static_cast<ssize_t>(NetHeader::kSize)) {
    return OnError(got < 0 ? errno : EIO);
  }
  size_ = got;
  direct_ = 0;
  return Step::kDelivered;
}

NetReceiver::Step NetReceiver::OnError(int error) {
  if (error == EAGAIN) return Step::kEmpty;
  counters_.tap_errors.Add();
  wait_ = Wait::kStopped;
  failed_();
  return Step::kWait;
}

absl::StatusOr<bool> NetReceiver::PopBuffer(Queue& queue) {
  ASSIGN_OR_RETURN(std::optional<Chain> chain, queue.Pop());
  if (!chain.has_value()) {
    wait_ = Wait::kBuffers;
    return false;
  }
  if (chain->readable_size() != 0 ||
      chain->writable_size() < NetHeader::kSize) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a receive buffer without room for a header");
  }
  capacity_ += chain->writable_size();
  entries_ += chain->entries();
  chains_.push_back({*std::move(chain)});
  return true;
}

absl::StatusOr<NetReceiver::Step> NetReceiver::Deliver(Queue& queue) {
  while (capacity_ < size_) {
    const bool full = !Mergeable() && !chains_.empty();
    ASSIGN_OR_RETURN(bool popped, full ? false : PopBuffer(queue));
    if (full || (!popped && HasNoRoomForMore(queue))) {
      wait_ = Wait::kNothing;
      RETURN_IF_ERROR(DropPacket(queue));
      return Step::kDelivered;
    }
    if (!popped) {
      counters_.rx_no_buffers.Add();
      RETURN_IF_ERROR(TakeBack(queue));
      return Step::kWait;
    }
  }
  RETURN_IF_ERROR(PushAll(queue));
  counters_.rx_packets.Add();
  counters_.rx_bytes.Add(size_ - NetHeader::kSize);
  size_ = direct_ = 0;
  admitted_ = false;
  return Step::kDelivered;
}

// Whether the ring has no entries left for one more buffer like the last: the
// driver cannot bring what the packet needs.
bool NetReceiver::HasNoRoomForMore(const Queue& queue) const {
  return !chains_.empty() &&
         entries_ + chains_.back().chain.entries() > queue.size();
}

absl::Status NetReceiver::PushAll(Queue& queue) {
  auto rest = absl::MakeConstSpan(overflow_).subspan(0, size_ - direct_);
  uint64_t offset = direct_;  // within the chain that is filled
  for (UsedChain& buffer : chains_) {
    const uint64_t room = buffer.chain.writable_size() - offset;
    const auto part = rest.subspan(0, std::min<uint64_t>(room, rest.size()));
    RETURN_IF_ERROR(buffer.chain.Write(offset, part));
    buffer.written = static_cast<uint32_t>(offset + part.size());
    rest.remove_prefix(part.size());
    offset = 0;
  }
  uint8_t count[2];
  base::StoreLe<uint16_t>(count, static_cast<uint16_t>(chains_.size()));
  RETURN_IF_ERROR(chains_[0].chain.Write(NetHeader::kNumBuffersOffset, count));
  return PushChains(queue);
}

// All at once: a driver that saw some of the buffers of a packet would take the
// others for packets of their own.
absl::Status NetReceiver::PushChains(Queue& queue) {
  absl::Status status = queue.PushAll(absl::MakeSpan(chains_));
  chains_.clear();
  capacity_ = entries_ = 0;
  return status;
}

// While a packet waits for buffers nothing of the host touches those that are
// there: they go back, and what is in them comes here. The guest may have
// changed it meanwhile; it is the guest's packet.
absl::Status NetReceiver::TakeBack(Queue& queue) {
  if (direct_ > 0) {
    const size_t rest = size_ - direct_;
    std::copy_backward(overflow_.begin(), overflow_.begin() + rest,
                       overflow_.begin() + size_);
    RETURN_IF_ERROR(chains_[0].chain.ReadBack(
        0, absl::MakeSpan(overflow_).subspan(0, direct_)));
    direct_ = 0;
  }
  UnpopChains(queue);
  return absl::OkStatus();
}

void NetReceiver::UnpopChains(Queue& queue) {
  while (!chains_.empty()) {
    queue.Unpop(std::move(chains_.back().chain));
    chains_.pop_back();
  }
  capacity_ = entries_ = 0;
}

absl::Status NetReceiver::DropPacket(Queue& queue) {
  counters_.rx_dropped_too_long.Add();
  size_ = direct_ = 0;
  admitted_ = false;
  if (chains_.size() == 1) {
    UnpopChains(queue);
    return absl::OkStatus();
  }
  return PushChains(queue);
}

}  // namespace cloister::devices::virtio
