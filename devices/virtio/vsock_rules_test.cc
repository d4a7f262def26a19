// SPDX-License-Identifier: Apache-2.0
//
// What breaks the rules, comes at an odd moment or too often.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/device_runner.h"
#include "cloister/devices/virtio/vsock_fixture.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using std::chrono::hours;

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

INSTANTIATE_TEST_SUITE_P(Rings, VsockTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace cloister::devices::virtio
