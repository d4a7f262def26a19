// SPDX-License-Identifier: Apache-2.0
//
// A NetPort whose wire is a pair of sockets (test only).
#ifndef CLOISTER_DEVICES_VIRTIO_NET_PORT_FAKE_H_
#define CLOISTER_DEVICES_VIRTIO_NET_PORT_FAKE_H_

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "cloister/base/mutex.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/net_header.h"
#include "cloister/devices/virtio/net_port.h"

namespace cloister::devices::virtio {

// What a test holds of a fake port: the far end of its wire, and its faults.
// Thread-safe.
class NetWire {
 public:
  NetWire() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                     fds) < 0) {
      std::abort();
    }
    near_.reset(fds[0]);
    far_.reset(fds[1]);
    // Room for several of the largest packets.
    const int room = 1 << 20;
    ::setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    ::setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
  }

  // A packet to the device: header and payload.
  bool Put(const NetHeader& header, absl::string_view payload) {
    const auto bytes = header.Serialize();
    std::string packet(bytes.begin(), bytes.end());
    packet.append(payload.data(), payload.size());
    return ::send(far_.get(), packet.data(), packet.size(), 0) ==
           static_cast<ssize_t>(packet.size());
  }
  // Bytes as they are, a header or not.
  bool PutRaw(absl::string_view bytes) {
    return ::send(far_.get(), bytes.data(), bytes.size(), 0) ==
           static_cast<ssize_t>(bytes.size());
  }
  // What the device sent, header included; nullopt after ten seconds.
  std::optional<std::string> Take() {
    struct pollfd ready = {far_.get(), POLLIN, 0};
    if (::poll(&ready, 1, 10000) != 1) return std::nullopt;
    return TakeNow();
  }
  std::optional<std::string> TakeNow() {
    std::string packet(NetHeader::kSize + kNetMaxPacket, '\0');
    const ssize_t got = ::recv(far_.get(), packet.data(), packet.size(), 0);
    if (got < 0) return std::nullopt;
    packet.resize(got);
    return packet;
  }

  int near() const { return near_.get(); }

  // Calls fail with these while they are not 0.
  std::atomic<int> receive_error{0};
  std::atomic<int> send_error{0};
  std::atomic<int> control_error{0};
  std::atomic<bool> gone{false};
  std::atomic<bool> enabled{true};
  std::atomic<uint64_t> receives{0};

  void SetOffloads(const NetOffloads& offloads) {
    base::MutexLock lock(&mutex_);
    offloads_ = offloads;
  }
  NetOffloads offloads() {
    base::MutexLock lock(&mutex_);
    return offloads_;
  }

 private:
  base::UniqueFd near_, far_;
  base::Mutex mutex_;
  NetOffloads offloads_ ABSL_GUARDED_BY(mutex_);
};

class NetPortFake : public NetPort {
 public:
  // `wire` outlives the port.
  explicit NetPortFake(NetWire& wire) : wire_(wire) {}

  int fd() const override { return wire_.near(); }
  ssize_t Receive(absl::Span<const struct iovec> to) override {
    wire_.receives.fetch_add(1);
    if (Fails(wire_.receive_error)) return -1;
    return Reached(::readv(fd(), to.data(), to.size()));
  }
  ssize_t Send(absl::Span<const struct iovec> from) override {
    if (Fails(wire_.send_error)) return -1;
    return Reached(::writev(fd(), from.data(), from.size()));
  }
  absl::Status SetOffloads(const NetOffloads& offloads) override {
    if (wire_.control_error != 0) return absl::InternalError("offloads");
    wire_.SetOffloads(offloads);
    return absl::OkStatus();
  }
  absl::Status SetEnabled(bool enabled) override {
    if (wire_.control_error != 0) return absl::InternalError("enabled");
    wire_.enabled = enabled;
    return absl::OkStatus();
  }
  bool IsGone() override { return wire_.gone; }

 private:
  static bool Fails(const std::atomic<int>& error) {
    const int number = error.load();
    if (number != 0) errno = number;
    return number != 0;
  }
  // FakeRam keeps what is not shared out of reach: nobody may go there.
  static ssize_t Reached(ssize_t result) {
    if (result < 0 && errno == EFAULT) std::abort();
    return result;
  }
  NetWire& wire_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_PORT_FAKE_H_
