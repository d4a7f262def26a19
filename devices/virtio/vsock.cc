// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock.h"

#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/vsock_packet.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
// The third carries events, of which there are none: a guest that is moved
// elsewhere would get one.
constexpr std::array<uint16_t, 3> kQueueSizes = {256, 256, 16};

}  // namespace

absl::StatusOr<std::unique_ptr<Vsock>> Vsock::Create(
    Options options, std::unique_ptr<Worker> worker) {
  if (options.cid < kVsockMinGuestCid || options.cid > kVsockMaxGuestCid) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vsock cid ", options.cid, " is out of range: ", kVsockMinGuestCid,
        " to ", kVsockMaxGuestCid));
  }
  std::unique_ptr<Vsock> vsock(
      new Vsock(std::move(options), std::move(worker)));
  Vsock* self = vsock.get();
  base::EventLoop& loop = vsock->runner_.loop();
  ASSIGN_OR_RETURN(vsock->rx_limiter_,
                   FlowLimiter::Create(loop, self->options_.rx_limit,
                                       [self] { self->RunReceive(); }));
  ASSIGN_OR_RETURN(vsock->tx_limiter_,
                   FlowLimiter::Create(loop, self->options_.tx_limit,
                                       [self] { self->OnKick(kTx); }));
  ASSIGN_OR_RETURN(vsock->listener_,
                   VsockListener::Create(self->options_.path));
  VsockMuxer::Options muxer;
  muxer.guest_cid = self->options_.cid;
  muxer.max_connections = self->options_.max_connections;
  muxer.patience = self->options_.patience;
  muxer.drain = self->options_.drain;
  ASSIGN_OR_RETURN(
      vsock->muxer_,
      VsockMuxer::Create(loop, muxer, *vsock->listener_, vsock->counters_,
                         [self] { self->RunReceive(); }));
  return vsock;
}

absl::Span<const uint16_t> Vsock::queue_sizes() const { return kQueueSizes; }

void Vsock::ReadConfig(uint64_t offset, absl::Span<uint8_t> data) {
  std::array<uint8_t, 8> config;
  base::StoreLe<uint64_t>(config.data(), options_.cid);
  for (size_t i = 0; i < data.size(); ++i) {
    const bool inside = offset < config.size() && i < config.size() - offset;
    data[i] = inside ? config[offset + i] : 0;
  }
}

absl::Status Vsock::OnStart() {
  kicks_on_ = true;
  return muxer_->Start();
}

void Vsock::OnStop() {
  muxer_->Stop();
  rx_limiter_->Cancel();
  tx_limiter_->Cancel();
}

void Vsock::OnKick(uint16_t queue) {
  if (queue == kTx) RunTransmit();
  if (queue == kRx || queue == kTx) RunReceive();
}

void Vsock::RunTransmit() {
  runner_.Serve(kTx, [this](Queue& queue, Chain chain) {
    return TakePacket(queue, std::move(chain));
  });
}

absl::StatusOr<DeviceRunner::Next> Vsock::TakePacket(Queue& queue,
                                                     Chain chain) {
  if (chain.writable_size() != 0 ||
      chain.readable_size() < VsockHeader::kSize) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a packet of a socket without a header");
  }
  const uint64_t payload = chain.readable_size() - VsockHeader::kSize;
  if (!tx_limiter_->Take(payload)) {
    queue.Unpop(std::move(chain));
    return DeviceRunner::Next::kStop;
  }
  std::array<uint8_t, VsockHeader::kSize> bytes;
  RETURN_IF_ERROR(chain.Read(0, absl::MakeSpan(bytes)));
  RETURN_IF_ERROR(muxer_->FromGuest(VsockHeader::Parse(bytes), payload, chain));
  RETURN_IF_ERROR(queue.Push(std::move(chain), 0));
  return DeviceRunner::Next::kMore;
}

void Vsock::RunReceive() {
  Queue* queue = runner_.queue(kRx);
  if (queue == nullptr || !muxer_->HasPacket()) return;
  if (runner_.Check(ReceiveTurn(*queue))) runner_.Signal(kRx);
}

absl::Status Vsock::ReceiveTurn(Queue& queue) {
  if (kicks_on_) {
    RETURN_IF_ERROR(queue.DisableKicks());
    kicks_on_ = false;
  }
  for (int i = 0; i < DeviceRunner::kTurn; ++i) {
    if (!muxer_->HasPacket()) return absl::OkStatus();
    ASSIGN_OR_RETURN(bool more, ReceiveOne(queue));
    if (!more) return absl::OkStatus();
  }
  runner_.Again(kRx);
  return absl::OkStatus();
}

absl::StatusOr<bool> Vsock::ReceiveOne(Queue& queue) {
  ASSIGN_OR_RETURN(std::optional<Chain> chain, queue.Pop());
  if (!chain.has_value()) {
    ASSIGN_OR_RETURN(bool more, queue.EnableKicks());
    kicks_on_ = !more;
    if (more) RETURN_IF_ERROR(queue.DisableKicks());
    return more;
  }
  if (chain->readable_size() != 0 ||
      chain->writable_size() <= VsockHeader::kSize) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a receive buffer without room for a packet");
  }
  ASSIGN_OR_RETURN(std::optional<uint32_t> written,
                   muxer_->ToGuest(*chain, *rx_limiter_));
  if (!written.has_value()) {
    queue.Unpop(*std::move(chain));
    return false;
  }
  RETURN_IF_ERROR(queue.Push(*std::move(chain), *written));
  return true;
}

}  // namespace cloister::devices::virtio
