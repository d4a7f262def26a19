// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net_header.h"

#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t kAll = ~uint64_t{0};
uint64_t Without(int feature) { return kAll & ~(uint64_t{1} << feature); }

NetHeader Plain() { return {}; }
NetHeader Checksum() {
  NetHeader header;
  header.flags = NetHeader::kNeedsCsum;
  header.csum_start = 34;
  header.csum_offset = 16;
  return header;
}
NetHeader Segments(uint8_t type) {
  NetHeader header = Checksum();
  header.gso_type = type;
  header.gso_size = 1448;
  header.hdr_len = 54;
  return header;
}

TEST(NetHeaderTest, ParsesWhatItSerializes) {
  const std::array<uint8_t, NetHeader::kSize> bytes = {1, 4, 2, 1, 4,  3,
                                                       6, 5, 8, 7, 10, 9};
  const NetHeader header = NetHeader::Parse(bytes);
  EXPECT_EQ(header.hdr_len, 0x102);
  EXPECT_EQ(header.gso_size, 0x304);
  EXPECT_EQ(header.csum_start, 0x506);
  EXPECT_EQ(header.csum_offset, 0x708);
  EXPECT_EQ(header.num_buffers, 0x90a);
  EXPECT_EQ(header.Serialize(), bytes);
}

TEST(NetHeaderTest, BoundsThePacket) {
  EXPECT_FALSE(NetHeaderIsValid(Plain(), 0, kNetMinPacket - 1));
  EXPECT_TRUE(NetHeaderIsValid(Plain(), 0, kNetMinPacket));
  EXPECT_TRUE(NetHeaderIsValid(Plain(), 0, kNetMaxPacket));
  EXPECT_FALSE(NetHeaderIsValid(Plain(), 0, kNetMaxPacket + 1));
}

TEST(NetHeaderTest, WantsAChecksumInsideThePacketAndNegotiated) {
  EXPECT_TRUE(NetHeaderIsValid(Checksum(), kAll, 52));
  EXPECT_FALSE(NetHeaderIsValid(Checksum(), kAll, 51));
  EXPECT_FALSE(NetHeaderIsValid(Checksum(), Without(kNetCsum), 52));
  NetHeader header = Checksum();
  header.csum_start = header.csum_offset = 0xffff;
  EXPECT_FALSE(NetHeaderIsValid(header, kAll, kNetMaxPacket));
}

TEST(NetHeaderTest, DoesNotSeeFlagsThatAreNotForTheDevice) {
  std::array<uint8_t, NetHeader::kSize> bytes = Checksum().Serialize();
  bytes[0] = 0xff;  // DATA_VALID and RSC_INFO among them
  NetHeader header = NetHeader::Parse(bytes);
  EXPECT_EQ(header.flags, NetHeader::kNeedsCsum);
  EXPECT_TRUE(NetHeaderIsValid(header, kAll, 52));
  EXPECT_FALSE(NetHeaderIsValid(header, Without(kNetCsum), 52));
  bytes[0] = 0xfe;
  header = NetHeader::Parse(bytes);
  EXPECT_EQ(header.flags, 0);
  EXPECT_TRUE(NetHeaderIsValid(header, 0, 52));
}

TEST(NetHeaderTest, WantsEachKindOfSegmentationNegotiated) {
  struct Kind {
    uint8_t type;
    int feature;
  };
  for (Kind kind : {Kind{NetHeader::kGsoTcp4, kNetHostTso4},
                    Kind{NetHeader::kGsoTcp6, kNetHostTso6},
                    Kind{NetHeader::kGsoUdp, kNetHostUfo}}) {
    EXPECT_TRUE(NetHeaderIsValid(Segments(kind.type), kAll, 3000));
    EXPECT_FALSE(
        NetHeaderIsValid(Segments(kind.type), Without(kind.feature), 3000));
    NetHeader header = Segments(kind.type);
    header.gso_size = 0;
    EXPECT_FALSE(NetHeaderIsValid(header, kAll, 3000));
    header = Segments(kind.type);
    header.flags = 0;
    EXPECT_FALSE(NetHeaderIsValid(header, kAll, 3000));
    header = Segments(kind.type);
    header.hdr_len = 3001;
    EXPECT_FALSE(NetHeaderIsValid(header, kAll, 3000));
  }
  EXPECT_FALSE(NetHeaderIsValid(Segments(2), kAll, 3000));
  EXPECT_FALSE(NetHeaderIsValid(Segments(0x7f), kAll, 3000));
}

TEST(NetHeaderTest, TakesEcnOnlyWithTcpAndNegotiated) {
  const uint8_t ecn = NetHeader::kGsoTcp4 | NetHeader::kGsoEcn;
  EXPECT_TRUE(NetHeaderIsValid(Segments(ecn), kAll, 3000));
  EXPECT_FALSE(NetHeaderIsValid(Segments(ecn), Without(kNetHostEcn), 3000));
  EXPECT_FALSE(NetHeaderIsValid(
      Segments(NetHeader::kGsoUdp | NetHeader::kGsoEcn), kAll, 3000));
  EXPECT_FALSE(NetHeaderIsValid(Segments(NetHeader::kGsoEcn), kAll, 3000));
}

TEST(NetHeaderTest, LeavesNothingToADriverWithoutChecksums) {
  EXPECT_EQ(NetOffloadsOf(Without(kNetGuestCsum)), NetOffloads());
  const NetOffloads all = NetOffloadsOf(kAll);
  EXPECT_TRUE(all.checksum && all.tso4 && all.tso6 && all.ecn && all.ufo);
  EXPECT_FALSE(NetOffloadsOf(Without(kNetGuestTso6)).tso6);
}

}  // namespace
}  // namespace cloister::devices::virtio
