// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/driver_fake_device.h"
#include "cloister/devices/virtio/driver_fake_queue.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using std::chrono::hours;
using ::testing::HasSubstr;
using Buffer = DriverFake::Buffer;

constexpr uint64_t kCid = 42;
constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr uint32_t kGuestPort = 5000;
constexpr uint32_t kHostPort = 77;

std::string Payload(size_t size, size_t seed = 0) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((i + seed) * 7 + (i + seed) / 251);
  }
  return text;
}

template <typename Condition>
bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
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

class VsockTest : public ::testing::TestWithParam<bool> {
 protected:
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
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("vsock"));
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

TEST_P(VsockTest, AClientTalksToTheGuest) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_TRUE(peer.Write("from the host"));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.header.op, VsockOp::kReadWrite);
  EXPECT_EQ(packet.payload, "from the host");
  ASSERT_OK(SendData("from the guest"));
  EXPECT_EQ(peer.Read(14), "from the guest");
  EXPECT_EQ(counters().opened_by_host.value(), 1u);
  EXPECT_EQ(counters().tx_bytes.value(), 14u);
  EXPECT_EQ(counters().rx_bytes.value(), 13u);
  EXPECT_TRUE(Eventually([&] { return ram_.LeasedBytes() == 0; }));
}

TEST_P(VsockTest, TheGuestTalksToAListener) {
  Make();
  Peer peer = OpenFromGuest();
  ASSERT_OK(SendData("hello"));
  EXPECT_EQ(peer.Read(5), "hello");
  ASSERT_TRUE(peer.Write("back"));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.payload, "back");
  EXPECT_EQ(packet.header.src_port, kHostPort);
  EXPECT_EQ(counters().opened_by_guest.value(), 1u);
}

TEST_P(VsockTest, WhatFollowsTheConnectLineIsTheGuests) {
  Make();
  Peer peer = Client("CONNECT 5000\nearly");
  ASSERT_OK_AND_ASSIGN(Packet request, Receive());
  host_port_ = request.header.src_port;
  ASSERT_OK(SendOp(VsockOp::kResponse));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.payload, "early");
}

TEST_P(VsockTest, TakesAConnectLineInPieces) {
  Make();
  Peer peer = Client("CONN");
  ASSERT_TRUE(peer.Write("ECT 50"));
  ASSERT_TRUE(peer.Write("00\n"));
  ExpectPacket(VsockOp::kRequest);
}

TEST_P(VsockTest, RefusesClientsThatSaySomethingElse) {
  Make();
  for (const char* line :
       {"HELLO 5000\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n",
        "CONNECT \n", "CONNECT 4294967295\n", "CONNECT 4294967296\n",
        "CONNECT 1 \n", "CONNECT 000000000000000000000000000000000001\n"}) {
    Peer peer = Client(line);
    EXPECT_TRUE(peer.Ended()) << line;
  }
  EXPECT_EQ(counters().clients_refused.value(), 9u);
}

TEST_P(VsockTest, AClientThatSaysNothingIsNotWaitedForForever) {
  options_.patience = std::chrono::milliseconds(20);
  Make();
  Peer peer = Client("CONNECT 50");
  EXPECT_TRUE(peer.Ended());
  EXPECT_EQ(counters().timeouts.value(), 1u);
}

TEST_P(VsockTest, AGuestThatDoesNotAnswerIsNotWaitedForForever) {
  options_.patience = std::chrono::milliseconds(20);
  Make();
  Peer peer = Client("CONNECT 5000\n");
  ExpectPacket(VsockOp::kRequest);
  ExpectPacket(VsockOp::kReset);
  EXPECT_TRUE(peer.Ended());
}

TEST_P(VsockTest, AGuestThatRefusesEndsTheClient) {
  Make();
  Peer peer = Client("CONNECT 5000\n");
  ASSERT_OK_AND_ASSIGN(Packet request, Receive());
  host_port_ = request.header.src_port;
  ASSERT_OK(SendOp(VsockOp::kReset));
  EXPECT_TRUE(peer.Ended());
}

TEST_P(VsockTest, AClientThatLeavesBeforeTheAnswerResetsTheGuest) {
  Make();
  Peer peer = Client("CONNECT 5000\n");
  ExpectPacket(VsockOp::kRequest);
  peer.Close();
  ExpectPacket(VsockOp::kReset);
}

TEST_P(VsockTest, NobodyListensWhereTheGuestConnects) {
  Make();
  ASSERT_OK(SendOp(VsockOp::kRequest));
  ExpectPacket(VsockOp::kReset);
  EXPECT_EQ(counters().connect_failed.value(), 1u);
}

TEST_P(VsockTest, MovesMuchDataBothWaysInOrder) {
  Make();
  Peer peer = OpenFromHost();
  constexpr size_t kSize = 4 << 20;
  std::string expected = Payload(kSize);
  std::thread writer([&] { EXPECT_TRUE(peer.Write(expected)); });
  std::string received;
  while (received.size() < kSize) {
    auto packet = Receive();
    ASSERT_OK(packet);
    if (packet->header.op == VsockOp::kCreditRequest) {
      ASSERT_OK(SendOp(VsockOp::kCreditUpdate));
      continue;
    }
    received += packet->payload;
    guest_consumed_ += packet->header.len;
    if (received.size() % (256 << 10) < 4052) {
      ASSERT_OK(SendOp(VsockOp::kCreditUpdate));
    }
  }
  writer.join();
  EXPECT_TRUE(received == expected);

  std::string echoed;
  std::thread reader([&] { echoed = peer.Read(kSize); });
  for (size_t sent = 0; sent < kSize; sent += 32768) {
    // The guest's credit is 256 KiB: eight such packets, then an update.
    ASSERT_OK(SendData(expected.substr(sent, 32768)));
    if ((sent / 32768) % 4 == 3) ExpectPacket(VsockOp::kCreditUpdate);
  }
  reader.join();
  EXPECT_TRUE(echoed == expected);
}

TEST_P(VsockTest, SendsNoMoreThanTheGuestGrants) {
  guest_buffer_ = 1000;
  Make();
  Peer peer = OpenFromHost();
  ASSERT_TRUE(peer.Write(Payload(1500)));
  ASSERT_OK_AND_ASSIGN(Packet first, Receive());
  EXPECT_EQ(first.payload, Payload(1000));
  ExpectPacket(VsockOp::kCreditRequest);
  guest_consumed_ = 800;
  ASSERT_OK(SendOp(VsockOp::kCreditUpdate));
  ASSERT_OK_AND_ASSIGN(Packet second, Receive());
  EXPECT_EQ(second.payload, Payload(500, 1000));
}

TEST_P(VsockTest, AnswersARequestForCredit) {
  Make();
  Peer peer = OpenFromGuest();
  ASSERT_OK(SendData(Payload(100)));
  EXPECT_EQ(peer.Read(100), Payload(100));
  ASSERT_OK(SendOp(VsockOp::kCreditRequest));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.header.op, VsockOp::kCreditUpdate);
  EXPECT_EQ(packet.header.buf_alloc, VsockConnection::kBuffer);
  EXPECT_EQ(packet.header.fwd_cnt, 100u);
}

TEST_P(VsockTest, HoldsNoMoreThanItGranted) {
  Make();
  Peer peer = OpenFromGuest();  // and never reads
  uint64_t sent = 0;
  while (counters().tx_over_credit.value() == 0 && sent < (8u << 20)) {
    ASSERT_OK(SendData(Payload(65536, sent)));
    sent += 65536;
  }
  EXPECT_EQ(counters().tx_over_credit.value(), 1u);
  auto packet = Receive();
  while (packet.ok() && packet->header.op == VsockOp::kCreditUpdate) {
    packet = Receive();
  }
  ASSERT_OK(packet);
  EXPECT_EQ(packet->header.op, VsockOp::kReset);
}

TEST_P(VsockTest, PassesOnWhatItHoldsOnceTheHostReads) {
  Make();
  Peer peer = OpenFromGuest();
  const int small = 4096;
  ::setsockopt(peer.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  const std::string text = Payload(VsockConnection::kBuffer);
  for (size_t i = 0; i < text.size(); i += 32768) {
    ASSERT_OK(SendData(text.substr(i, 32768)));
  }
  ASSERT_OK(SendOp(VsockOp::kShutdown, VsockHeader::kNoSend));
  EXPECT_TRUE(peer.Read(text.size()) == text);
  EXPECT_TRUE(peer.Ended());
}

TEST_P(VsockTest, TheHostMayEndItsHalf) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_TRUE(peer.Write("last"));
  ::shutdown(peer.fd(), SHUT_WR);
  ASSERT_OK_AND_ASSIGN(Packet data, Receive());
  EXPECT_EQ(data.payload, "last");
  ASSERT_OK_AND_ASSIGN(Packet end, Receive());
  EXPECT_EQ(end.header.op, VsockOp::kShutdown);
  EXPECT_EQ(end.header.flags, VsockHeader::kNoSend);
  ASSERT_OK(SendData("still there"));
  EXPECT_EQ(peer.Read(11), "still there");
  peer.Close();
  ASSERT_OK_AND_ASSIGN(Packet gone, Receive());
  EXPECT_EQ(gone.header.op, VsockOp::kShutdown);
  EXPECT_EQ(gone.header.flags, VsockHeader::kNoSend | VsockHeader::kNoReceive);
  ASSERT_OK(SendOp(VsockOp::kReset));
  EXPECT_EQ(counters().closed.value(), 1u);
}

TEST_P(VsockTest, TheGuestMayEndItsHalf) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_OK(SendData("last"));
  ASSERT_OK(SendOp(VsockOp::kShutdown, VsockHeader::kNoSend));
  EXPECT_EQ(peer.Read(5), "last");
  ASSERT_TRUE(peer.Write("still there"));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.payload, "still there");
  ASSERT_OK(SendOp(VsockOp::kShutdown, VsockHeader::kNoReceive));
  ExpectPacket(VsockOp::kReset);  // the clean end
  EXPECT_TRUE(Eventually([&] { return counters().closed.value() == 1; }));
}

TEST_P(VsockTest, DataAfterTheGuestsEndIsAMistake) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_OK(SendOp(VsockOp::kShutdown, VsockHeader::kNoSend));
  ASSERT_OK(SendData("more"));
  ExpectPacket(VsockOp::kReset);
  EXPECT_EQ(counters().tx_out_of_turn.value(), 1u);
}

TEST_P(VsockTest, ResetsWhatBreaksTheRules) {
  Make();
  const auto mistakes = std::vector<std::function<void(VsockHeader&)>>{
      [](VsockHeader& h) { h.op = VsockOp::kInvalid; },
      [](VsockHeader& h) { h.op = static_cast<VsockOp>(8); },
      [](VsockHeader& h) { h.op = static_cast<VsockOp>(0xffff); },
      [](VsockHeader& h) { h.type = 0; },
      [](VsockHeader& h) { h.type = 2; },
      [](VsockHeader& h) { h.len = 1; },
      [](VsockHeader& h) { h.len = 0xffffffff; },
      [](VsockHeader& h) { h.flags = 1; },
      [](VsockHeader& h) { h.fwd_cnt = 1; },  // nothing was sent
      [](VsockHeader& h) { h.op = VsockOp::kRequest; },
      [](VsockHeader& h) { h.op = VsockOp::kResponse; },
      [](VsockHeader& h) { h.op = VsockOp::kShutdown; },
      [](VsockHeader& h) { h.op = VsockOp::kShutdown, h.flags = 4; },
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    Peer peer = OpenFromHost();
    VsockHeader header = Header(VsockOp::kReadWrite);
    mistakes[i](header);
    ASSERT_OK(Send(header));
    auto packet = Receive();
    ASSERT_OK(packet) << i;
    EXPECT_EQ(packet->header.op, VsockOp::kReset) << i;
    EXPECT_TRUE(peer.Ended()) << i;
  }
  EXPECT_EQ(counters().closed.value(), mistakes.size());
}

TEST_P(VsockTest, AnswersStrayPacketsWithAReset) {
  Make();
  for (VsockOp op : {VsockOp::kReadWrite, VsockOp::kResponse,
                     VsockOp::kCreditUpdate, VsockOp::kInvalid}) {
    ASSERT_OK(SendOp(op));
    ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
    EXPECT_EQ(packet.header.op, VsockOp::kReset);
    EXPECT_EQ(packet.header.src_port, kHostPort);
    EXPECT_EQ(packet.header.dst_port, kGuestPort);
  }
  ASSERT_OK(SendOp(VsockOp::kReset));  // but a reset with nothing
  VsockHeader header = Header(VsockOp::kRequest);
  header.src_cid = kCid + 1;
  ASSERT_OK(Send(header));
  header = Header(VsockOp::kRequest);
  header.dst_cid = 1;
  ASSERT_OK(Send(header));
  EXPECT_EQ(counters().tx_bad_cid.value(), 2u);
  EXPECT_FALSE(driver_->queue(kRx).HasUsed());
}

TEST_P(VsockTest, BoundsResetsThatTheGuestDoesNotTake) {
  Make(0);
  for (size_t i = 0; i < VsockMuxer::kMaxResets + 10; ++i) {
    ASSERT_OK(SendOp(VsockOp::kResponse));
  }
  EXPECT_EQ(counters().resets_dropped.value(), 10u);
}

TEST_P(VsockTest, BoundsConnections) {
  options_.max_connections = 2;
  Make();
  Peer first = OpenFromHost();
  Peer second = OpenFromHost();
  Peer third = Client("");
  EXPECT_TRUE(third.Ended());
  host_port_ = kHostPort;
  ASSERT_OK(SendOp(VsockOp::kRequest));
  ExpectPacket(VsockOp::kReset);
}

TEST_P(VsockTest, ARequestForAConnectionThatIsThereResetsIt) {
  Make();
  Peer peer = OpenFromGuest();
  ASSERT_OK(SendOp(VsockOp::kRequest));
  ExpectPacket(VsockOp::kReset);
  EXPECT_TRUE(peer.Ended());
}

TEST_P(VsockTest, LimitsBothDirections) {
  options_.rx_limit.bandwidth = {100, 0, hours(1)};
  options_.tx_limit.bandwidth = {100, 0, hours(1)};
  Make();
  Peer peer = OpenFromHost();
  ASSERT_TRUE(peer.Write(Payload(60)));
  ASSERT_OK(Receive());
  ASSERT_TRUE(peer.Write(Payload(60)));
  ASSERT_TRUE(Eventually([&] { return vsock_->rx_throttled() > 0; }));
  RateLimiterUpdate update;
  update.bandwidth = TokenBucketConfig{};
  ASSERT_OK(vsock_->UpdateRxLimit(update));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.payload, Payload(60));

  ASSERT_OK(SendData(Payload(60)));
  VsockHeader header = Header(VsockOp::kReadWrite);
  header.len = 60;
  const auto bytes = header.Serialize();
  const Buffer head = {ram_.Alloc(bytes.size()), bytes.size(), false};
  ram_.Write(head.address, bytes);
  ASSERT_TRUE(driver_->queue(kTx)
                  .Offer({{head, {ram_.AllocString(Payload(60)), 60, false}}})
                  .has_value());
  driver_->Kick(kTx);
  ASSERT_TRUE(Eventually([&] { return vsock_->tx_throttled() > 0; }));
  EXPECT_FALSE(driver_->queue(kTx).HasUsed());
  ASSERT_OK(vsock_->UpdateTxLimit(update));
  ASSERT_OK(driver_->WaitUsed(kTx));
  EXPECT_EQ(peer.Read(120), Payload(60) + Payload(60));
}

// --- What only a hostile guest, or a rude host, does.

TEST_P(VsockTest, AClientThatLeavesWithoutAWordIsRefused) {
  Make();
  Client("").Close();
  EXPECT_TRUE(
      Eventually([&] { return counters().clients_refused.value() == 1; }));
}

TEST_P(VsockTest, AnAnswerBeforeTheQuestionIsAMistake) {
  Make(0);
  Peer peer = Client("CONNECT 5000\n");
  host_port_ = uint32_t{1} << 30;  // what it will be called
  ASSERT_TRUE(Eventually([&] {
    EXPECT_OK(SendOp(VsockOp::kResponse));
    return counters().tx_out_of_turn.value() == 1;
  }));
  // Behind the resets for the answers that came before there was a question.
  OfferRx(16, 4096);
  while (counters().closed.value() == 0) {
    ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
    EXPECT_EQ(packet.header.op, VsockOp::kReset);
  }
  EXPECT_TRUE(peer.Ended());
}

TEST_P(VsockTest, DataBeforeTheAnswerIsAMistake) {
  Make(0);
  auto listener =
      VsockListener::Create(absl::StrCat(options_.path, "_", kHostPort));
  ASSERT_OK(listener);
  listener_ = *std::move(listener);
  ASSERT_OK(SendOp(VsockOp::kRequest));
  ASSERT_OK(SendData("early"));
  EXPECT_EQ(counters().tx_out_of_turn.value(), 1u);
  OfferRx(4, 4096);
  ExpectPacket(VsockOp::kReset);
}

TEST_P(VsockTest, AnswersToAQuestionAreYesAndNo) {
  Make();
  for (VsockOp op :
       {VsockOp::kReadWrite, VsockOp::kCreditUpdate, VsockOp::kShutdown}) {
    Peer peer = Client("CONNECT 5000\n");
    ASSERT_OK_AND_ASSIGN(Packet request, Receive());
    host_port_ = request.header.src_port;
    ASSERT_OK(SendOp(op, op == VsockOp::kShutdown ? 3 : 0));
    ExpectPacket(VsockOp::kReset);
    EXPECT_TRUE(peer.Ended());
  }
  EXPECT_EQ(counters().tx_out_of_turn.value(), 2u);
}

TEST_P(VsockTest, AClientThatDoesNotReadTheAnswerIsReset) {
  Make();
  Peer peer = Client("CONNECT 5000\n");
  ASSERT_OK_AND_ASSIGN(Packet request, Receive());
  host_port_ = request.header.src_port;
  ::shutdown(peer.fd(), SHUT_RD);
  ASSERT_OK(SendOp(VsockOp::kResponse));
  ExpectPacket(VsockOp::kReset);
  EXPECT_EQ(counters().socket_errors.value(), 1u);
  EXPECT_EQ(counters().opened_by_host.value(), 0u);
}

TEST_P(VsockTest, DataThatNobodyReadsEndsTheConnection) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_OK(SendData(""));  // says nothing, and breaks no rule
  ::shutdown(peer.fd(), SHUT_RD);
  ASSERT_OK(SendData("lost"));
  ExpectPacket(VsockOp::kReset);
  EXPECT_EQ(counters().tx_out_of_turn.value(), 0u);
}

TEST_P(VsockTest, WhoNoLongerReceivesMayStillSend) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_OK(SendOp(VsockOp::kShutdown, VsockHeader::kNoReceive));
  ASSERT_OK(SendData("still there"));
  EXPECT_EQ(peer.Read(11), "still there");
  EXPECT_FALSE(peer.Write("nobody reads this"));
  peer.Close();
  ASSERT_OK_AND_ASSIGN(Packet gone, Receive());
  EXPECT_EQ(gone.header.op, VsockOp::kShutdown);
  EXPECT_EQ(gone.header.flags, VsockHeader::kNoSend | VsockHeader::kNoReceive);
}

TEST_P(VsockTest, CreditThatIsTakenBackIsAskedForAgain) {
  options_.rx_limit.operations = {2, 0, hours(1)};
  Make();
  Peer peer = OpenFromHost();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(peer.Write("x"));
    ASSERT_OK(Receive());
  }
  ASSERT_TRUE(peer.Write("kept"));
  ASSERT_TRUE(Eventually([&] { return vsock_->rx_throttled() > 0; }));
  // While the packet waits for its turn.
  guest_buffer_ = 0;
  ASSERT_OK(SendOp(VsockOp::kCreditUpdate));
  RateLimiterUpdate update;
  update.operations = TokenBucketConfig{};
  ASSERT_OK(vsock_->UpdateRxLimit(update));
  ExpectPacket(VsockOp::kCreditRequest);
  guest_buffer_ = 1000;
  ASSERT_OK(SendOp(VsockOp::kCreditUpdate));
  ASSERT_OK_AND_ASSIGN(Packet packet, Receive());
  EXPECT_EQ(packet.payload, "kept");
}

TEST_P(VsockTest, AGuestThatStopsReceivingGetsNothingThatWaited) {
  options_.rx_limit.operations = {1, 0, hours(1)};
  Make();
  Peer peer = OpenFromHost();
  ASSERT_TRUE(peer.Write("x"));
  ASSERT_OK(Receive());
  ASSERT_TRUE(peer.Write("too late"));
  ASSERT_TRUE(Eventually([&] { return vsock_->rx_throttled() > 0; }));
  ASSERT_OK(SendOp(VsockOp::kShutdown, VsockHeader::kNoReceive));
  RateLimiterUpdate update;
  update.operations = TokenBucketConfig{};
  ASSERT_OK(vsock_->UpdateRxLimit(update));
  ASSERT_OK(SendOp(VsockOp::kCreditRequest));
  ExpectPacket(VsockOp::kCreditUpdate);
  EXPECT_EQ(counters().rx_bytes.value(), 1u);
}

TEST_P(VsockTest, HoldsDataThroughAShutdownUntilItIsRead) {
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  for (size_t i = 0; i < text.size(); i += 32768) {
    ASSERT_OK(SendData(text.substr(i, 32768)));
  }
  ASSERT_OK(SendOp(VsockOp::kShutdown,
                   VsockHeader::kNoSend | VsockHeader::kNoReceive));
  EXPECT_TRUE(peer.Read(text.size()) == text);
  EXPECT_TRUE(peer.Ended());
  auto packet = Receive();
  while (packet.ok() && packet->header.op == VsockOp::kCreditUpdate) {
    packet = Receive();
  }
  ASSERT_OK(packet);
  EXPECT_EQ(packet->header.op, VsockOp::kReset);
}

TEST_P(VsockTest, WhatIsHeldForAPeerThatLeavesIsDropped) {
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  for (size_t i = 0; i < text.size(); i += 32768) {
    ASSERT_OK(SendData(text.substr(i, 32768)));
  }
  peer.Close();
  auto packet = Receive();
  while (packet.ok() && packet->header.op == VsockOp::kCreditUpdate) {
    packet = Receive();
  }
  ASSERT_OK(packet);
  EXPECT_EQ(packet->header.op, VsockOp::kReset);
}

// The store for what the peer did not read yet is never empty, and must not
// grow for that.
TEST_P(VsockTest, KeepsUpWithAPeerThatIsAlwaysBehind) {
  Make();
  Peer peer = OpenFromGuest();
  std::string expected;
  const auto send = [&](size_t size) {
    const std::string part = Payload(size, expected.size());
    expected += part;
    ASSERT_OK(SendData(part));
  };
  constexpr size_t kPart = VsockConnection::kBuffer / 8;
  for (int i = 0; i < 8; ++i) send(kPart);
  std::string read;
  for (int round = 0; round < 8; ++round) {
    // Little by little, and asking in between: the device must find the socket
    // full again each time that it passes something on.
    uint32_t room = 0;
    ASSERT_TRUE(Eventually([&] {
      read += peer.Read(kPart / 2);
      EXPECT_OK(SendOp(VsockOp::kCreditRequest));
      auto packet = Receive();
      while (packet.ok() && packet->header.op != VsockOp::kCreditUpdate) {
        packet = Receive();
      }
      if (!packet.ok()) return false;
      const uint32_t sent = static_cast<uint32_t>(expected.size());
      room = packet->header.buf_alloc - (sent - packet->header.fwd_cnt);
      return room >= kPart;
    }));
    for (uint32_t i = 0; i < room / kPart; ++i) send(kPart);
  }
  read += peer.Read(expected.size() - read.size());
  EXPECT_TRUE(read == expected);
  EXPECT_EQ(counters().tx_over_credit.value(), 0u);
}

TEST_P(VsockTest, WaitsForBothSidesOfAConnectionAtOnce) {
  guest_buffer_ = 0;
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  for (size_t i = 0; i < text.size(); i += 32768) {
    ASSERT_OK(SendData(text.substr(i, 32768)));
  }
  ASSERT_TRUE(peer.Write("waits"));
  auto packet = Receive();
  while (packet.ok() && packet->header.op == VsockOp::kCreditUpdate) {
    packet = Receive();
  }
  ASSERT_OK(packet);
  EXPECT_EQ(packet->header.op, VsockOp::kCreditRequest);
  EXPECT_TRUE(peer.Read(text.size()) == text);
  guest_buffer_ = 1000;
  ASSERT_OK(SendOp(VsockOp::kCreditUpdate));
  packet = Receive();
  while (packet.ok() && packet->header.op == VsockOp::kCreditUpdate) {
    packet = Receive();
  }
  ASSERT_OK(packet);
  EXPECT_EQ(packet->payload, "waits");
}

TEST_P(VsockTest, ManyPacketsTakeMoreThanOneTurn) {
  Make(0);
  for (size_t i = 0; i < 2 * DeviceRunner::kTurn - 10; ++i) {
    ASSERT_OK(SendOp(VsockOp::kResponse));
  }
  OfferRx(2 * DeviceRunner::kTurn - 10, 64);
  EXPECT_TRUE(Eventually([&] {
    return counters().resets_sent.value() == 2 * DeviceRunner::kTurn - 10;
  }));
}

TEST_P(VsockTest, SeesABufferThatComesAsItStopsLooking) {
  const LateQueue::First first = LateQueue::Once([this] {
    const Buffer buffer = {ram_.Alloc(4096), 4096, true};
    auto id = driver_->queue(kRx).Offer({{buffer}});
    EXPECT_TRUE(id.has_value());
    rx_[*id] = buffer;
  });
  FakeDriver::Options with;
  with.wrap = [first](uint16_t index,
                      std::unique_ptr<Queue> queue) -> std::unique_ptr<Queue> {
    if (index != kRx) return queue;
    return std::make_unique<LateQueue>(std::move(queue), first.moment);
  };
  Make(0, 4096, with);
  Peer peer = Client("CONNECT 5000\n");
  first.done.wait();
  ExpectPacket(VsockOp::kRequest);
}

TEST_P(VsockTest, ClientsThatAreLateLeaveConnectionsAlone) {
  options_.patience = std::chrono::milliseconds(20);
  Make();
  Peer open = OpenFromHost();
  Peer late = Client("CONN");
  EXPECT_TRUE(late.Ended());
  ASSERT_OK(SendData("still there"));
  EXPECT_EQ(open.Read(11), "still there");
}

// The host has no descriptor left for a client, which waits for that.
TEST_P(VsockTest, TakesClientsAgainOnceThereAreDescriptors) {
  options_.patience = std::chrono::milliseconds(20);
  Make();
  base::UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::copy(options_.path.begin(), options_.path.end(), address.sun_path);
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  base::UniqueFd lowest(::dup(client.get()));
  const rlim_t limit = lowest.get();
  lowest.reset();
  struct rlimit none = before;
  none.rlim_cur = limit;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_EQ(::connect(client.get(),
                      reinterpret_cast<const struct sockaddr*>(&address),
                      sizeof(address)),
            0);
  // More than once: it asks again, after a while.
  const bool refused =
      Eventually([&] { return counters().socket_errors.value() >= 2; });
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(refused);
  Peer peer(std::move(client));
  ASSERT_TRUE(peer.Write("CONNECT 5000\n"));
  ExpectPacket(VsockOp::kRequest);
}

TEST_P(VsockTest, ShortRequestsNeedAReset) {
  Make();
  const Buffer head = {ram_.Alloc(43), 43, false};
  EXPECT_EQ(QueueErrorOf(driver_->Run(kTx, {head}).status()),
            QueueError::kBadRequest);
}

TEST_P(VsockTest, ShortReceiveBuffersNeedAReset) {
  Make(1, VsockHeader::kSize);
  Peer peer = Client("CONNECT 5000\n");
  ASSERT_TRUE(driver_->interrupts().WaitForReset());
  EXPECT_EQ(QueueErrorOf(*driver_->interrupts().reset_reason()),
            QueueError::kBadRequest);
  EXPECT_TRUE(peer.Ended());
}

TEST_P(VsockTest, AResetClosesEverythingAndTheNextDriverStartsAfresh) {
  Make();
  Peer peer = OpenFromHost();
  Peer asking = Client("CONN");
  ASSERT_TRUE(driver_->Reset());
  EXPECT_TRUE(peer.Ended());
  EXPECT_TRUE(asking.Ended());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
  ASSERT_OK(driver_->Activate());
  rx_.clear();
  OfferRx(16, 4096);
  Peer again = OpenFromHost();
  ASSERT_OK(SendData("again"));
  EXPECT_EQ(again.Read(5), "again");
}

TEST_P(VsockTest, ConfigurationSaysTheCid) {
  Make();
  EXPECT_EQ(driver_->ReadConfig(0, 8), kCid);
  EXPECT_EQ(driver_->ReadConfig(8, 8), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

TEST(VsockCreateTest, RefusesCidsThatNoGuestCanHave) {
  for (uint64_t cid :
       {uint64_t{0}, uint64_t{2}, uint64_t{0xffffffff}, uint64_t{1} << 32}) {
    ASSERT_OK_AND_ASSIGN(auto worker, Worker::Create("vsock"));
    Vsock::Options options;
    options.cid = cid;
    options.path = "/tmp/never";
    EXPECT_THAT(Vsock::Create(options, std::move(worker)).status(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat("vsock cid ", cid,
                                                " is out of range"))));
  }
}

}  // namespace
}  // namespace cloister::devices::virtio
