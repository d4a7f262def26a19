// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_credit.h"

#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

TEST(VsockCreditTest, SendsWithinThePeersBuffer) {
  VsockCredit credit(100);
  EXPECT_EQ(credit.Available(), 0u);
  ASSERT_TRUE(credit.UpdatePeer(50, 0));
  credit.Sent(30);
  EXPECT_EQ(credit.Available(), 20u);
  ASSERT_TRUE(credit.UpdatePeer(50, 10));
  EXPECT_EQ(credit.Available(), 30u);
  ASSERT_TRUE(credit.UpdatePeer(5, 10));  // a buffer that shrinks
  EXPECT_EQ(credit.Available(), 0u);
}

TEST(VsockCreditTest, BelievesNoPeerThatConsumedWhatWasNotSent) {
  VsockCredit credit(100);
  ASSERT_TRUE(credit.UpdatePeer(50, 0));
  credit.Sent(30);
  EXPECT_FALSE(credit.UpdatePeer(50, 31));
  EXPECT_TRUE(credit.UpdatePeer(50, 30));
  EXPECT_FALSE(credit.UpdatePeer(50, 29));  // nor one that takes it back
}

TEST(VsockCreditTest, CountsThroughTheEndOf32Bits) {
  VsockCredit credit(0xffffffff);
  uint32_t sent = 0;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(credit.UpdatePeer(0x70000000, sent));
    EXPECT_EQ(credit.Available(), 0x70000000u);
    credit.Sent(0x70000000);
    sent += 0x70000000;
    EXPECT_EQ(credit.Available(), 0u);
  }
}

TEST(VsockCreditTest, GrantsWhatWasConsumed) {
  VsockCredit credit(100);
  EXPECT_EQ(credit.Room(), 100u);
  credit.Received(60);
  EXPECT_EQ(credit.Room(), 40u);
  credit.Consumed(49);
  EXPECT_FALSE(credit.ShouldAnnounce());
  credit.Consumed(1);
  EXPECT_TRUE(credit.ShouldAnnounce());
  EXPECT_EQ(credit.fwd_cnt(), 50u);
  credit.Announced();
  EXPECT_FALSE(credit.ShouldAnnounce());
  EXPECT_EQ(credit.Room(), 90u);
}

}  // namespace
}  // namespace cloister::devices::virtio
