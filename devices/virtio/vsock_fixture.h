// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_FIXTURE_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_FIXTURE_H_

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_queue.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/eventually.h"
#include "cloister/devices/virtio/vsock.h"
#include "cloister/devices/virtio/vsock_listener.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "cloister/devices/virtio/worker.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {

inline constexpr uint64_t kCid = 42;
inline constexpr uint16_t kRx = 0;
inline constexpr uint16_t kTx = 1;
inline constexpr uint32_t kGuestPort = 5000;
inline constexpr uint32_t kHostPort = 77;

// Bytes that differ from their neighbours, and by `seed`.
inline std::string Payload(size_t size, size_t seed = 0) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((i + seed) * 7 + (i + seed) / 251);
  }
  return text;
}

// The host's end of a connection: blocking, with a limit.
class Peer {
 public:
  explicit Peer(base::UniqueFd fd) : fd_(std::move(fd)) {}
  bool Write(absl::string_view text) {
    while (!text.empty()) {
      struct pollfd ready = {fd_.get(), POLLOUT, 0};
      if (::poll(&ready, 1, 10000) != 1) return false;
      const ssize_t sent =
          ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent < 0) return false;
      text.remove_prefix(sent);
    }
    return true;
  }
  // Exactly `size` bytes, fewer at the end of the stream or after ten seconds.
  std::string Read(size_t size) {
    std::string text(size, '\0');
    size_t done = 0;
    while (done < size) {
      struct pollfd ready = {fd_.get(), POLLIN, 0};
      if (::poll(&ready, 1, 10000) != 1) break;
      const ssize_t got = ::recv(fd_.get(), &text[done], size - done, 0);
      if (got <= 0) break;
      done += got;
    }
    text.resize(done);
    return text;
  }
  // True once the other side has ended the stream.
  bool Ended() { return Read(1).empty(); }
  int fd() const { return fd_.get(); }
  void Close() { fd_.reset(); }

 private:
  base::UniqueFd fd_;
};

struct Packet {
  VsockHeader header;
  std::string payload;
};

// A vsock device and its driver; the parameter chooses packed rings.
class VsockTest : public ::testing::TestWithParam<bool> {
 protected:
  using Buffer = DriverFake::Buffer;

  void SetUp() override {
    char directory[] = "/tmp/cloister-vsock-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    directory_ = directory;
    options_.path = directory_ + "/v";
    options_.cid = kCid;
  }
  void TearDown() override {
    driver_.reset();
    vsock_.reset();
    listener_.reset();
    EXPECT_EQ(::rmdir(directory_.c_str()), 0) << "something is left behind";
  }

  void Make(int buffers = 64, uint32_t buffer_size = 4096,
            FakeDriver::Options with = {}) {
    ASSERT_OK_AND_ASSIGN(auto worker,
                         Worker::Create("vsock", on_thread_start_));
    ASSERT_OK_AND_ASSIGN(vsock_, Vsock::Create(options_, std::move(worker)));
    with.packed = GetParam();
    driver_ = std::make_unique<FakeDriver>(*vsock_, ram_, with);
    ASSERT_OK(driver_->Activate());
    OfferRx(buffers, buffer_size);
  }
  void OfferRx(int buffers, uint32_t size) {
    for (int i = 0; i < buffers; ++i) {
      const Buffer buffer = {ram_.Alloc(size), size, true};
      auto id = driver_->queue(kRx).Offer({{buffer}});
      ASSERT_TRUE(id.has_value());
      rx_[*id] = buffer;
    }
    driver_->Kick(kRx);
  }
  // The next packet to the guest, its buffer offered again.
  absl::StatusOr<Packet> Receive() {
    auto used = driver_->WaitUsed(kRx);
    if (!used.ok()) return used.status();
    const Buffer buffer = rx_.at(used->id);
    std::array<uint8_t, VsockHeader::kSize> bytes;
    const std::vector<uint8_t> raw = ram_.Bytes(buffer.address, bytes.size());
    std::copy(raw.begin(), raw.end(), bytes.begin());
    Packet packet{VsockHeader::Parse(bytes), ""};
    EXPECT_EQ(used->written, VsockHeader::kSize + packet.header.len);
    packet.payload = ram_.String(*buffer.address.Plus(VsockHeader::kSize),
                                 packet.header.len);
    auto id = driver_->queue(kRx).Offer({{buffer}});
    EXPECT_TRUE(id.has_value());
    rx_[*id] = buffer;
    driver_->Kick(kRx);
    return packet;
  }
  void ExpectPacket(VsockOp op) {
    auto packet = Receive();
    ASSERT_OK(packet);
    EXPECT_EQ(packet->header.op, op);
  }

  VsockHeader Header(VsockOp op) const {
    VsockHeader header;
    header.src_cid = kCid;
    header.dst_cid = kVsockHostCid;
    header.src_port = kGuestPort;
    header.dst_port = host_port_;
    header.op = op;
    header.buf_alloc = guest_buffer_;
    header.fwd_cnt = guest_consumed_;
    return header;
  }
  absl::Status Send(VsockHeader header, absl::string_view payload = "") {
    const auto bytes = header.Serialize();
    std::vector<Buffer> buffers = {
        {ram_.Alloc(bytes.size()), bytes.size(), false}};
    ram_.Write(buffers[0].address, bytes);
    if (!payload.empty()) {
      buffers.push_back({ram_.AllocString(payload),
                         static_cast<uint32_t>(payload.size()), false});
    }
    return driver_->Run(kTx, buffers).status();
  }
  absl::Status SendOp(VsockOp op, uint32_t flags = 0) {
    VsockHeader header = Header(op);
    header.flags = flags;
    return Send(header);
  }
  absl::Status SendData(absl::string_view payload) {
    VsockHeader header = Header(VsockOp::kReadWrite);
    header.len = static_cast<uint32_t>(payload.size());
    return Send(header, payload);
  }

  // A client that asked for `line`.
  Peer Client(absl::string_view line) {
    auto fd = ConnectUnix(options_.path);
    EXPECT_OK(fd);
    Peer peer(*std::move(fd));
    EXPECT_TRUE(peer.Write(line));
    return peer;
  }
  // A connection that the host's client asked for and the guest accepted.
  Peer OpenFromHost() {
    Peer peer = Client(absl::StrCat("CONNECT ", kGuestPort, "\n"));
    auto packet = Receive();
    EXPECT_OK(packet);
    EXPECT_EQ(packet->header.op, VsockOp::kRequest);
    EXPECT_EQ(packet->header.dst_port, kGuestPort);
    EXPECT_EQ(packet->header.src_cid, kVsockHostCid);
    EXPECT_EQ(packet->header.dst_cid, kCid);
    host_port_ = packet->header.src_port;
    EXPECT_OK(SendOp(VsockOp::kResponse));
    const std::string line = absl::StrCat("OK ", host_port_, "\n");
    EXPECT_EQ(peer.Read(line.size()), line);
    return peer;
  }
  // A connection that the guest asked for.
  Peer OpenFromGuest() {
    host_port_ = kHostPort;
    auto listener =
        VsockListener::Create(absl::StrCat(options_.path, "_", kHostPort));
    EXPECT_OK(listener);
    listener_ = *std::move(listener);
    EXPECT_OK(SendOp(VsockOp::kRequest));
    ExpectPacket(VsockOp::kResponse);
    auto fd = listener_->Accept();
    EXPECT_OK(fd);
    return Peer(*std::move(fd));
  }
  const VsockCounters& counters() { return vsock_->counters(); }

  std::function<void()> on_thread_start_;  // of the device
  Vsock::Options options_;
  std::string directory_;
  FakeRam ram_{uint64_t{64} << 20};
  std::unique_ptr<Vsock> vsock_;
  std::unique_ptr<FakeDriver> driver_;
  std::unique_ptr<VsockListener> listener_;
  std::map<uint16_t, Buffer> rx_;
  uint32_t host_port_ = kHostPort;
  uint32_t guest_buffer_ = 1 << 20;
  uint32_t guest_consumed_ = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_FIXTURE_H_
