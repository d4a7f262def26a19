// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net_header.h"

#include "cloister/base/bytes.h"

namespace cloister::devices::virtio {
namespace {

bool Has(uint64_t features, int feature) { return features >> feature & 1; }

bool ChecksumIsValid(const NetHeader& header, uint64_t features,
                     uint64_t packet_size) {
  if (header.flags == 0) return true;
  if (header.flags != NetHeader::kNeedsCsum || !Has(features, kNetCsum)) {
    return false;
  }
  const uint64_t end =
      uint64_t{header.csum_start} + header.csum_offset + sizeof(uint16_t);
  return end <= packet_size;
}

bool SegmentationIsValid(const NetHeader& header, uint64_t features,
                         uint64_t packet_size) {
  const bool ecn = (header.gso_type & NetHeader::kGsoEcn) != 0;
  int needed;
  switch (header.gso_type & ~NetHeader::kGsoEcn) {
    case NetHeader::kGsoNone:
      return !ecn;
    case NetHeader::kGsoTcp4:
      needed = kNetHostTso4;
      break;
    case NetHeader::kGsoTcp6:
      needed = kNetHostTso6;
      break;
    case NetHeader::kGsoUdp:
      if (ecn) return false;
      needed = kNetHostUfo;
      break;
    default:
      return false;
  }
  if (!Has(features, needed)) return false;
  if (ecn && !Has(features, kNetHostEcn)) return false;
  // Segments need a size and a checksum each.
  return header.gso_size != 0 && header.flags == NetHeader::kNeedsCsum &&
         header.hdr_len <= packet_size;
}

}  // namespace

NetHeader NetHeader::Parse(const std::array<uint8_t, kSize>& bytes) {
  NetHeader header;
  header.flags = bytes[0] & kNeedsCsum;
  header.gso_type = bytes[1];
  header.hdr_len = base::LoadLe<uint16_t>(&bytes[2]);
  header.gso_size = base::LoadLe<uint16_t>(&bytes[4]);
  header.csum_start = base::LoadLe<uint16_t>(&bytes[6]);
  header.csum_offset = base::LoadLe<uint16_t>(&bytes[8]);
  header.num_buffers = base::LoadLe<uint16_t>(&bytes[kNumBuffersOffset]);
  return header;
}

std::array<uint8_t, NetHeader::kSize> NetHeader::Serialize() const {
  std::array<uint8_t, kSize> bytes = {flags, gso_type};
  base::StoreLe<uint16_t>(&bytes[2], hdr_len);
  base::StoreLe<uint16_t>(&bytes[4], gso_size);
  base::StoreLe<uint16_t>(&bytes[6], csum_start);
  base::StoreLe<uint16_t>(&bytes[8], csum_offset);
  base::StoreLe<uint16_t>(&bytes[kNumBuffersOffset], num_buffers);
  return bytes;
}

bool NetHeaderIsValid(const NetHeader& header, uint64_t features,
                      uint64_t packet_size) {
  return packet_size >= kNetMinPacket && packet_size <= kNetMaxPacket &&
         ChecksumIsValid(header, features, packet_size) &&
         SegmentationIsValid(header, features, packet_size);
}

NetOffloads NetOffloadsOf(uint64_t features) {
  NetOffloads offloads;
  offloads.checksum = Has(features, kNetGuestCsum);
  if (!offloads.checksum) return offloads;
  offloads.tso4 = Has(features, kNetGuestTso4);
  offloads.tso6 = Has(features, kNetGuestTso6);
  offloads.ecn = Has(features, kNetGuestEcn);
  offloads.ufo = Has(features, kNetGuestUfo);
  return offloads;
}

}  // namespace cloister::devices::virtio
