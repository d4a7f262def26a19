// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_CREDIT_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_CREDIT_H_

#include <cstdint>

namespace cloister::devices::virtio {

// The flow control of one connection (virtio 1.3, section 5.10.6.3). All
// counters wrap at 2^32, as they do on the wire.
class VsockCredit {
 public:
  // `buffer`: bytes from the peer that this side can hold.
  explicit VsockCredit(uint32_t buffer) : buffer_(buffer) {}

  // --- Towards the peer.

  // Takes what a packet of the peer says. False if it claims to have consumed
  // what was never sent.
  bool UpdatePeer(uint32_t buf_alloc, uint32_t fwd_cnt) {
    if (sent_ - fwd_cnt > sent_ - peer_consumed_) return false;
    peer_buffer_ = buf_alloc;
    peer_consumed_ = fwd_cnt;
    return true;
  }
  // Bytes that may be sent now.
  uint32_t Available() const {
    const uint32_t in_flight = sent_ - peer_consumed_;
    return peer_buffer_ > in_flight ? peer_buffer_ - in_flight : 0;
  }
  void Sent(uint32_t bytes) { sent_ += bytes; }

  // --- From the peer.

  // Bytes that the peer may still send.
  uint32_t Room() const { return buffer_ - (received_ - consumed_); }
  // Takes in `bytes`, at most Room().
  void Received(uint32_t bytes) { received_ += bytes; }
  void Consumed(uint32_t bytes) { consumed_ += bytes; }

  // For the header of every packet to the peer.
  uint32_t buf_alloc() const { return buffer_; }
  uint32_t fwd_cnt() const { return consumed_; }
  void Announced() { announced_ = consumed_; }
  // Whether so much was consumed since the last packet that the peer, who may
  // wait for it, should be told.
  bool ShouldAnnounce() const { return consumed_ - announced_ >= buffer_ / 2; }

 private:
  const uint32_t buffer_;
  uint32_t received_ = 0;
  uint32_t consumed_ = 0;
  uint32_t announced_ = 0;

  uint32_t peer_buffer_ = 0;
  uint32_t peer_consumed_ = 0;
  uint32_t sent_ = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_CREDIT_H_
