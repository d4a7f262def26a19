// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_packet.h"

#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

TEST(VsockPacketTest, ParsesWhatItSerializes) {
  VsockHeader header;
  header.src_cid = 0x0102030405060708;
  header.dst_cid = 0x1112131415161718;
  header.src_port = 0x21222324;
  header.dst_port = 0x31323334;
  header.len = 0x41424344;
  header.type = 0x5152;
  header.op = static_cast<VsockOp>(0x6162);
  header.flags = 0x71727374;
  header.buf_alloc = 0x81828384;
  header.fwd_cnt = 0x91929394;
  const auto bytes = header.Serialize();
  EXPECT_EQ(bytes[0], 8);
  EXPECT_EQ(bytes[28], 0x52);
  EXPECT_EQ(bytes[43], 0x91);
  EXPECT_EQ(VsockHeader::Parse(bytes).Serialize(), bytes);
}

TEST(VsockPacketTest, JudgesFieldsByOperation) {
  VsockHeader header;
  header.op = VsockOp::kReadWrite;
  header.len = 10;
  EXPECT_TRUE(VsockHeaderIsValid(header, 10));
  EXPECT_FALSE(VsockHeaderIsValid(header, 9));
  for (VsockOp op : {VsockOp::kRequest, VsockOp::kResponse, VsockOp::kReset,
                     VsockOp::kCreditUpdate, VsockOp::kCreditRequest}) {
    VsockHeader plain;
    plain.op = op;
    EXPECT_TRUE(VsockHeaderIsValid(plain, 0));
    plain.len = 1;
    EXPECT_FALSE(VsockHeaderIsValid(plain, 1));
    plain.len = 0;
    plain.flags = 1;
    EXPECT_FALSE(VsockHeaderIsValid(plain, 0));
    plain.flags = 0;
    plain.src_port = kVsockAnyPort;
    EXPECT_FALSE(VsockHeaderIsValid(plain, 0));
    plain.src_port = 0;
    plain.dst_port = kVsockAnyPort;
    EXPECT_FALSE(VsockHeaderIsValid(plain, 0));
  }
  header = VsockHeader();
  header.op = VsockOp::kShutdown;
  for (uint32_t flags = 0; flags < 8; ++flags) {
    header.flags = flags;
    EXPECT_EQ(VsockHeaderIsValid(header, 0), flags >= 1 && flags <= 3);
  }
  header.flags = 1;
  header.len = 1;
  EXPECT_FALSE(VsockHeaderIsValid(header, 1));
}

}  // namespace
}  // namespace cloister::devices::virtio
