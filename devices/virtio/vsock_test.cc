// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock.h"

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/vsock_fixture.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::StatusIs;
using std::chrono::hours;
using ::testing::HasSubstr;

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

TEST_P(VsockTest, AGuestWithoutBuffersIsNotWaitedForEither) {
  options_.patience = std::chrono::milliseconds(20);
  options_.max_connections = 1;
  Make(/*buffers=*/0);
  for (uint64_t closed : {1, 2}) {
    Peer peer = Client("CONNECT 5000\n");
    EXPECT_TRUE(peer.Ended());
    EXPECT_TRUE(
        Eventually([&] { return counters().closed.value() == closed; }));
  }
  OfferRx(1, 4096);
  Peer peer = Client("CONNECT 5000\n");
  ExpectPacket(VsockOp::kRequest);  // and none for those that are gone
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
