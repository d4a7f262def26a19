// SPDX-License-Identifier: Apache-2.0
//
// What the guest sent, and the host has yet to read, when a connection ends.
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/eventually.h"
#include "cloister/devices/virtio/vsock_connection.h"
#include "cloister/devices/virtio/vsock_fixture.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

constexpr size_t kPiece = 32768;

// What a Unix socket takes, in such pieces, before it is full.
size_t SocketRoom() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return 0;
  const base::UniqueFd ours(fds[0]), theirs(fds[1]);
  const std::vector<char> piece(kPiece);
  size_t room = 0;
  for (ssize_t sent = 0; sent >= 0;) {
    sent = ::send(ours.get(), piece.data(), piece.size(), MSG_DONTWAIT);
    room += std::max<ssize_t>(sent, 0);
  }
  return room;
}

class VsockDrainTest : public VsockTest {
 protected:
  void SendAll(const std::string& text) {
    for (size_t i = 0; i < text.size(); i += kPiece) {
      ASSERT_OK(SendData(text.substr(i, kPiece)));
    }
  }
  // The guest ends the connection, or forgets it.
  void End(bool forgotten) {
    ASSERT_OK(
        SendOp(forgotten ? VsockOp::kReset : VsockOp::kShutdown,
               forgotten ? 0 : VsockHeader::kNoSend | VsockHeader::kNoReceive));
  }
  // The next packet to the guest but for news of credit.
  void ExpectBehindCredit(VsockOp op) {
    auto packet = Receive();
    while (packet.ok() && packet->header.op == VsockOp::kCreditUpdate) {
      packet = Receive();
    }
    ASSERT_OK(packet);
    EXPECT_EQ(packet->header.op, op);
  }
};

TEST_P(VsockDrainTest, HoldsDataThroughAShutdownUntilItIsRead) {
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  SendAll(text);
  ASSERT_OK(SendOp(VsockOp::kShutdown,
                   VsockHeader::kNoSend | VsockHeader::kNoReceive));
  EXPECT_TRUE(peer.Read(text.size()) == text);
  EXPECT_TRUE(peer.Ended());
  ExpectBehindCredit(VsockOp::kReset);
}

// Slower than the guest's own patience with a close, and never idle for long:
// gets all of it, whether the guest ended the connection or forgot it.
TEST_P(VsockDrainTest, ASlowReaderGetsWhatAGuestLeftBehind) {
  options_.drain.idle = std::chrono::milliseconds(1500);
  Make();
  for (bool forgotten : {false, true}) {
    Peer peer = OpenFromGuest();
    // More than the socket takes at once when it asks for more.
    const std::string text =
        Payload(SocketRoom() + VsockConnection::kBuffer - kPiece);
    SendAll(text);
    ASSERT_OK(SendOp(VsockOp::kShutdown,
                     VsockHeader::kNoSend | VsockHeader::kNoReceive));
    if (forgotten) {
      ASSERT_OK(SendOp(VsockOp::kReset));
    }
    // The pace is what is tested, and nothing waits for it: longer than the
    // limit until the socket asks for more.
    for (size_t i = 0; i < text.size(); i += 8192) {
      ASSERT_TRUE(peer.Read(8192) == text.substr(i, 8192)) << i;
      if (i < 24 * 8192) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    }
    EXPECT_TRUE(peer.Ended());
    EXPECT_EQ(counters().timeouts.value(), 0u);
    listener_.reset();
    if (!forgotten) ExpectBehindCredit(VsockOp::kReset);
  }
}

// Who waits for something else goes on waiting.
TEST_P(VsockDrainTest, AReaderThatDoesNotReadIsNotWaitedForForever) {
  options_.drain.idle = std::chrono::milliseconds(20);
  options_.patience = std::chrono::minutes(10);
  Make();
  Peer asking = Client(absl::StrCat("CONNECT ", kGuestPort, "\n"));
  ASSERT_OK_AND_ASSIGN(Packet request, Receive());
  EXPECT_EQ(request.header.op, VsockOp::kRequest);
  uint64_t closed = 0;
  for (bool forgotten : {false, true}) {
    Peer peer = OpenFromGuest();
    const std::string text = Payload(2 * VsockConnection::kBuffer);
    size_t sent = 0;
    while (sent < VsockConnection::kBuffer) {
      ASSERT_OK(SendData(text.substr(sent, kPiece)));
      sent += kPiece;
    }
    End(forgotten);
    ++closed;
    ASSERT_TRUE(
        Eventually([&] { return counters().timeouts.value() == closed; }));
    const std::string got = peer.Read(text.size());
    EXPECT_LT(got.size(), sent);
    EXPECT_TRUE(got == text.substr(0, got.size()));
    listener_.reset();
    if (!forgotten) ExpectBehindCredit(VsockOp::kReset);
    EXPECT_TRUE(
        Eventually([&] { return counters().closed.value() == closed; }));
  }
  host_port_ = request.header.src_port;
  ASSERT_OK(SendOp(VsockOp::kResponse));
  EXPECT_EQ(asking.Read(3), "OK ");
}

// Its names are free for the next connection while the host still reads.
TEST_P(VsockDrainTest, AForgottenConnectionIsNotInTheWayOfTheNext) {
  options_.max_connections = 2;
  Make();
  Peer first = OpenFromGuest();
  // More than the socket takes at once when it asks for more.
  const std::string text =
      Payload(SocketRoom() + VsockConnection::kBuffer - kPiece);
  SendAll(text);
  ASSERT_OK(SendOp(VsockOp::kReset));
  ASSERT_OK(SendOp(VsockOp::kRequest));
  ExpectBehindCredit(VsockOp::kResponse);
  auto accepted = listener_->Accept();
  ASSERT_OK(accepted);
  Peer second(*std::move(accepted));
  ASSERT_OK(SendData("second"));
  EXPECT_EQ(second.Read(6), "second");
  // Both count.
  EXPECT_TRUE(Client("").Ended());
  EXPECT_TRUE(first.Read(text.size()) == text);
  EXPECT_TRUE(first.Ended());
  ASSERT_OK(SendData("more"));
  EXPECT_EQ(second.Read(4), "more");
  EXPECT_TRUE(Eventually([&] { return counters().closed.value() == 1; }));
}

TEST_P(VsockDrainTest, WhatIsHeldForAPeerThatLeavesIsDropped) {
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  SendAll(text);
  peer.Close();
  ExpectBehindCredit(VsockOp::kReset);
}

// The socket asks for more only when most of it is empty; what little is left
// goes into it when the host has read something.
TEST_P(VsockDrainTest, ALittleThatIsLeftGoesWithoutBeingAskedFor) {
  options_.drain.idle = std::chrono::milliseconds(1500);
  Make();
  uint64_t closed = 0;
  for (bool forgotten : {false, true}) {
    Peer peer = OpenFromGuest();
    const std::string text = Payload(SocketRoom() + 2048);
    SendAll(text);
    End(forgotten);
    const std::string first = peer.Read(kPiece + 4096);
    ++closed;
    if (!forgotten) ExpectBehindCredit(VsockOp::kReset);
    ASSERT_TRUE(
        Eventually([&] { return counters().closed.value() == closed; }));
    EXPECT_TRUE(first + peer.Read(text.size()) == text);
    EXPECT_EQ(counters().timeouts.value(), 0u);
    listener_.reset();
  }
}

// However busily the host reads.
TEST_P(VsockDrainTest, EndsAfterItsWholeTime) {
  options_.drain.idle = std::chrono::minutes(10);
  options_.drain.total = std::chrono::milliseconds(20);
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  SendAll(text);
  End(/*forgotten=*/true);
  ASSERT_TRUE(Eventually([&] { return counters().timeouts.value() == 1; }));
  EXPECT_LT(peer.Read(text.size()).size(), text.size());
}

// A reset of the device, too.
TEST_P(VsockDrainTest, AResetOfTheDeviceEndsIt) {
  Make();
  Peer peer = OpenFromGuest();
  const std::string text = Payload(VsockConnection::kBuffer);
  SendAll(text);
  End(/*forgotten=*/true);
  ASSERT_TRUE(driver_->Reset());
  const std::string got = peer.Read(text.size());
  EXPECT_LT(got.size(), text.size());
  EXPECT_TRUE(got == text.substr(0, got.size()));
  EXPECT_EQ(counters().closed.value(), 1u);
}

// The old connection waited for a buffer to send its news of credit in: they
// are not sent in the name of the next one.
TEST_P(VsockDrainTest, AForgottenConnectionLosesItsPlaceInTheLine) {
  Make(/*buffers=*/1);
  Peer first = OpenFromGuest();
  SendAll(Payload(VsockConnection::kBuffer));
  ASSERT_OK(SendOp(VsockOp::kCreditRequest));
  ASSERT_OK(SendOp(VsockOp::kCreditRequest));
  End(/*forgotten=*/true);
  ASSERT_OK(SendOp(VsockOp::kRequest));
  ExpectPacket(VsockOp::kCreditUpdate);
  ExpectPacket(VsockOp::kResponse);
  auto accepted = listener_->Accept();
  ASSERT_OK(accepted);
  Peer second(*std::move(accepted));
  ASSERT_OK(SendOp(VsockOp::kCreditRequest));
  ExpectPacket(VsockOp::kCreditUpdate);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockDrainTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace cloister::devices::virtio
