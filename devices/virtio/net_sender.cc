// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net_sender.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>
#include <vector>

#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/net_header.h"

namespace cloister::devices::virtio {

void NetSender::Start(uint16_t queue, FlowLimiter* limiter) {
  queue_ = queue;
  limiter_ = limiter;
}

void NetSender::Stop() {
  limiter_ = nullptr;
  wants_room_ = false;
}

void NetSender::Run() {
  if (limiter_ == nullptr || wants_room_) return;
  runner_.Serve(queue_, [this](Queue& queue, Chain chain) {
    return SendOne(queue, std::move(chain));
  });
}

void NetSender::OnWritable() {
  wants_room_ = false;
  Run();
}

absl::StatusOr<DeviceRunner::Next> NetSender::SendOne(Queue& queue,
                                                      Chain chain) {
  if (chain.writable_size() != 0 || chain.readable_size() < NetHeader::kSize) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a packet to send without a header of its own");
  }
  const uint64_t packet_size = chain.readable_size() - NetHeader::kSize;
  if (packet_size < kNetMinPacket || packet_size > kNetMaxPacket) {
    counters_.tx_dropped_malformed.Add();
  } else if (is_gone_) {
    counters_.tx_dropped_tap.Add();
  } else if (!limiter_->Take(packet_size)) {
    queue.Unpop(std::move(chain));
    return DeviceRunner::Next::kStop;
  } else {
    ASSIGN_OR_RETURN(bool done, Transmit(chain, packet_size));
    if (!done) {
      limiter_->Return(packet_size);
      queue.Unpop(std::move(chain));
      return DeviceRunner::Next::kStop;
    }
  }
  RETURN_IF_ERROR(queue.Push(std::move(chain), 0));
  return DeviceRunner::Next::kMore;
}

absl::StatusOr<bool> NetSender::Transmit(Chain& chain, uint64_t packet_size) {
  std::array<uint8_t, NetHeader::kSize> bytes;
  RETURN_IF_ERROR(chain.Read(0, absl::MakeSpan(bytes)));
  NetHeader header = NetHeader::Parse(bytes);
  if (!NetHeaderIsValid(header, runner_.features(), packet_size)) {
    counters_.tx_dropped_malformed.Add();
    return true;
  }
  // The host sees the copy that was checked, never the guest's.
  header.num_buffers = 0;
  if (header.gso_type == NetHeader::kGsoNone) header.hdr_len = 0;
  bytes = header.Serialize();
  ASSIGN_OR_RETURN(std::vector<struct iovec> iovecs,
                   chain.ReadableIovecs(NetHeader::kSize, packet_size));
  iovecs.insert(iovecs.begin(), {bytes.data(), bytes.size()});
  if (iovecs.size() > IOV_MAX) {
    counters_.tx_dropped_malformed.Add();
    return true;
  }
  if (port_.Send(iovecs) < 0) return OnError(errno);
  counters_.tx_packets.Add();
  counters_.tx_bytes.Add(packet_size);
  return true;
}

bool NetSender::OnError(int error) {
  if (error == EAGAIN) {
    counters_.tx_busy.Add();
    wants_room_ = true;
    return false;
  }
  counters_.tap_errors.Add();
  counters_.tx_dropped_tap.Add();
  // Asking takes a lock of the host's whole network.
  if (error == EBADFD && port_.IsGone()) gone_();
  return true;
}

}  // namespace cloister::devices::virtio
