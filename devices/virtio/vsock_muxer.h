// SPDX-License-Identifier: Apache-2.0
//
// Internal to the socket device.
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_MUXER_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_MUXER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/rate_limiter_timer.h"
#include "cloister/devices/virtio/flow_limiter.h"
#include "cloister/devices/virtio/vsock_connection.h"
#include "cloister/devices/virtio/vsock_counters.h"
#include "cloister/devices/virtio/vsock_listener.h"
#include "cloister/devices/virtio/vsock_packet.h"

namespace cloister::devices::virtio {

// All connections of one guest: who they belong to, whose turn it is, when they
// have waited too long. Belongs to the thread of its loop.
class VsockMuxer {
 public:
  struct Options {
    uint64_t guest_cid = 0;
    // Connections, and clients that have not said where to, at one time.
    size_t max_connections = 256;
    // For a client's CONNECT line, and for a guest's answer.
    std::chrono::milliseconds patience = std::chrono::seconds(2);
    VsockDrain drain;
  };
  // Bytes of "CONNECT 4294967294\n" at most.
  static constexpr size_t kMaxLine = 32;
  // Resets for what has no connection that wait for room in the guest's queue.
  static constexpr size_t kMaxResets = 256;

  // `listener` and `counters` outlive the muxer. `on_activity` is called after
  // something happened on the host's side: there may be packets for the guest.
  static absl::StatusOr<std::unique_ptr<VsockMuxer>> Create(
      base::EventLoop& loop, const Options& options, VsockListener& listener,
      VsockCounters& counters, std::function<void()> on_activity);
  ~VsockMuxer() { Stop(); }

  // Begins, and ends, to accept clients. The end closes all connections.
  absl::Status Start();
  void Stop();

  // A packet of the guest; `payload_room` bytes follow the header in `chain`.
  // The error is one of `chain`.
  absl::Status FromGuest(const VsockHeader& header, uint64_t payload_room,
                         Chain& chain);

  bool HasPacket() const { return !resets_.empty() || !ready_.empty(); }
  // Writes the next packet to the guest into `chain`, which has room for more
  // than a header: the bytes written, or nullopt if there is nothing to write
  // now. The error is one of `chain`.
  absl::StatusOr<std::optional<uint32_t>> ToGuest(Chain& chain,
                                                  FlowLimiter& limiter);

  size_t connections() const { return connections_.size(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Client {
    base::UniqueFd socket;
    Clock::time_point deadline;
    std::string line;  // as far as it has come
  };
  enum class Line { kPartial, kWhole, kBad };

  VsockMuxer(base::EventLoop& loop, const Options& options,
             VsockListener& listener, VsockCounters& counters,
             std::function<void()> on_activity)
      : loop_(loop),
        options_(options),
        listener_(listener),
        counters_(counters),
        on_activity_(std::move(on_activity)) {}

  void OnListenerReady();
  bool Full() const {
    return connections_.size() + clients_.size() + drains_.size() >=
           options_.max_connections;
  }
  void AddClient(base::UniqueFd socket);
  void OnClientReady(int fd);
  static Line TakeLine(int fd, std::string& line);
  void RefuseClient(int fd);
  void Ask(base::UniqueFd socket, uint32_t guest_port);
  uint32_t NewHostPort();

  absl::Status OnStray(const VsockHeader& header);
  void OnRequest(const VsockHeader& header);
  void QueueReset(const VsockHeader& header);
  VsockConnection& AddConnection(VsockPorts ports, base::UniqueFd socket,
                                 VsockConnection::Origin origin);
  void Remove(VsockPorts ports);
  // The guest has forgotten the connection, and its host not read all of it.
  void Drain(VsockPorts ports);
  void OnDrainReady(int fd, uint32_t events);
  void EndDrain(int fd);
  void EndLateDrains(Clock::time_point now);
  // After anything happened to a connection: its turn, its events, its time.
  void Refresh(VsockConnection& connection);
  void Watch(VsockConnection& connection);
  void OnTimer();
  void ArmTimer();
  absl::StatusOr<std::optional<uint32_t>> Emit(VsockPorts ports,
                                               VsockHeader header,
                                               Chain& chain);

  base::EventLoop& loop_;
  const Options options_;
  VsockListener& listener_;
  VsockCounters& counters_;
  const std::function<void()> on_activity_;
  std::unique_ptr<RateLimiterTimer> timer_;

  bool started_ = false;
  std::map<VsockPorts, std::unique_ptr<VsockConnection>> connections_;
  // By descriptor: their names are the guest's to use again.
  std::map<int, std::unique_ptr<VsockConnection>> drains_;
  std::map<int, Client> clients_;  // by descriptor
  std::deque<VsockPorts> ready_;   // those that are queued, each once
  std::deque<VsockPorts> resets_;
  uint32_t next_host_port_ = uint32_t{1} << 30;
};

// The port of a client's "CONNECT <port>" line (without the newline); nullopt
// for anything else.
std::optional<uint32_t> ParseConnectLine(absl::string_view line);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_MUXER_H_
