// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_NET_HEADER_H_
#define CLOISTER_DEVICES_VIRTIO_NET_HEADER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "cloister/devices/virtio/net_port.h"

namespace cloister::devices::virtio {

// Numbers of feature bits (virtio 1.3, section 5.1.3).
enum NetFeature : int {
  kNetCsum = 0,       // the device completes checksums
  kNetGuestCsum = 1,  // the driver does
  kNetMac = 5,
  kNetGuestTso4 = 7,
  kNetGuestTso6 = 8,
  kNetGuestEcn = 9,
  kNetGuestUfo = 10,
  kNetHostTso4 = 11,
  kNetHostTso6 = 12,
  kNetHostEcn = 13,
  kNetHostUfo = 14,
  kNetMrgRxbuf = 15,
  kNetStatus = 16,
  kNetCtrlVq = 17,
  kNetMq = 22,
};

// What stands before each packet (virtio 1.3, section 5.1.6), in host order.
struct NetHeader {
  static constexpr size_t kSize = 12;
  static constexpr size_t kNumBuffersOffset = 10;
  static constexpr uint8_t kNeedsCsum = 1;
  static constexpr uint8_t kGsoNone = 0;
  static constexpr uint8_t kGsoTcp4 = 1;
  static constexpr uint8_t kGsoUdp = 3;
  static constexpr uint8_t kGsoTcp6 = 4;
  static constexpr uint8_t kGsoEcn = 0x80;

  uint8_t flags = 0;
  uint8_t gso_type = kGsoNone;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;

  // Of a driver's packet. Flags that are not for a device to know are taken for
  // unset, as section 5.1.6.2.1 asks: so they never reach the host either.
  static NetHeader Parse(const std::array<uint8_t, kSize>& bytes);
  std::array<uint8_t, kSize> Serialize() const;
};

// The smallest packet (an Ethernet header) and the largest: 64 KiB of payload
// behind an Ethernet header with two VLAN tags.
inline constexpr size_t kNetMinPacket = 14;
inline constexpr size_t kNetMaxPacket = 22 + 65535;

// Whether a driver that accepted `features` may send a packet of
// `packet_size` bytes behind this header: only what it negotiated, and every
// offset inside the packet.
bool NetHeaderIsValid(const NetHeader& header, uint64_t features,
                      uint64_t packet_size);

// What `features` allow the host to leave to the driver.
NetOffloads NetOffloadsOf(uint64_t features);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_HEADER_H_
