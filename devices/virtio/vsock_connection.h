// SPDX-License-Identifier: Apache-2.0
//
// Internal to the socket device.
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_CONNECTION_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_CONNECTION_H_

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/devices/virtio/vsock_counters.h"
#include "cloister/devices/virtio/vsock_credit.h"
#include "cloister/devices/virtio/vsock_packet.h"

namespace cloister::devices::virtio {

// The two ends of a connection.
struct VsockPorts {
  uint32_t host = 0;
  uint32_t guest = 0;
  auto operator<=>(const VsockPorts&) const = default;
};

// How long a host may take to read what a guest has left behind that is gone:
// without reading anything, and in all.
struct VsockDrain {
  std::chrono::milliseconds idle = std::chrono::seconds(10);
  std::chrono::milliseconds total = std::chrono::seconds(120);
};

// One stream between a guest's port and a Unix socket. Knows no event loop:
// its owner asks events() after each call and tells it what came of them.
// Holds at most kBuffer bytes that the host has not taken yet.
class VsockConnection {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr uint32_t kBuffer = 256 * 1024;

  enum class Origin { kHost, kGuest };
  // What came of asking for a packet to the guest.
  enum class Outcome {
    kPacket,   // there is one
    kNothing,  // after all there is none
    kLimited,  // the limiter said no
  };

  // `socket` is connected and non-blocking. From the host: the guest is to be
  // asked. From the guest: it is to be answered.
  VsockConnection(VsockPorts ports, base::UniqueFd socket, Origin origin,
                  VsockDrain drain, VsockCounters& counters);

  const VsockPorts& ports() const { return ports_; }
  int fd() const { return socket_.get(); }
  // Which epoll events matter now; nullopt: do not watch at all.
  std::optional<uint32_t> events() const;
  // The socket has become ready.
  void OnReady(uint32_t events);

  // --- From the guest.

  // What the request that made this connection says about credit.
  void TakeCredit(const VsockHeader& request) {
    credit_.UpdatePeer(request.buf_alloc, request.fwd_cnt);
  }
  // A packet for this connection, its header valid by itself; the payload
  // follows the header in `chain`. What breaks the rules resets the connection.
  // The error is one of `chain`.
  absl::Status OnPacket(const VsockHeader& header, Chain& chain);
  // The guest knows this connection no longer. True if the host has yet to take
  // some of what it sent: keep this until draining() ends.
  bool OnReset();
  bool draining() const { return state_ == State::kOpen && !host_gone_; }

  // --- To the guest.

  bool HasPacket() const;
  // Fills in `header` (not the addresses) and the payload, which goes behind
  // the header in `chain`.
  absl::StatusOr<Outcome> NextPacket(Chain& chain, FlowLimiter& limiter,
                                     VsockHeader& header);

  // Ends the connection with a reset, without more data.
  void Abort();
  // Whether the guest has heard of it.
  bool announced() const { return !send_request_; }
  // The reset is on its way: nothing is left to do.
  bool finished() const { return finished_; }

  // When to call PutOff, and Abort if that is false, unless something happens
  // before.
  const std::optional<TimePoint>& deadline() const { return deadline_; }
  // True if the host has taken data since the deadline was set, which is later
  // now, or has taken all of it.
  bool PutOff(TimePoint now);
  void set_deadline(TimePoint deadline) { deadline_ = deadline; }

  // Set by the owner.
  bool queued = false;              // for its turn to send packets
  std::optional<uint32_t> watched;  // events that its loop knows

 private:
  enum class State { kAsking, kOpen, kReset };

  absl::Status OnData(uint32_t size, Chain& chain);
  void OnShutdown(uint32_t flags);
  void OnAccepted();
  bool DispatchOpen(VsockOp op) const;
  // Sends what is buffered, and does what waited for that.
  void Flush();
  void AfterFlush();
  void StartDrain();
  // The host has just taken something, or its time to do so begins.
  void RestartIdleTime();
  // What the host has yet to read of the bytes that its socket took.
  int Unread() const;
  bool MayRead() const;
  absl::StatusOr<Outcome> ReadInto(Chain& chain, FlowLimiter& limiter,
                                   VsockHeader& header);
  // Bytes to ask the socket for; nullopt if the limiter holds it up.
  std::optional<uint64_t> AdmittedSize(uint64_t most, FlowLimiter& limiter);
  Outcome OnReadResult(int64_t got, int error, VsockHeader& header);
  // The next packet without payload; false if there is none.
  bool NextControl(VsockHeader& header);
  size_t buffered() const { return buffer_.size() - sent_from_buffer_; }

  const VsockPorts ports_;
  const base::UniqueFd socket_;
  const VsockDrain drain_;
  VsockCounters& counters_;
  State state_;
  VsockCredit credit_{kBuffer};

  // From the guest, not taken by the socket yet.
  std::vector<uint8_t> buffer_;
  size_t sent_from_buffer_ = 0;
  uint32_t guest_shutdown_ = 0;  // flags

  bool readable_ = false;       // the socket may have data, or its end
  bool host_ended_ = false;     // it was read to its end
  bool host_gone_ = false;      // nobody is there any more
  uint32_t shutdown_sent_ = 0;  // flags

  // Packets to send.
  bool send_request_ = false;
  bool send_response_ = false;
  bool send_credit_update_ = false;
  bool credit_requested_ = false;
  bool finished_ = false;

  std::optional<TimePoint> deadline_;
  // While what is left must go: when that ends, and what was left last.
  std::optional<TimePoint> drain_end_;
  int drain_unread_ = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_CONNECTION_H_
