// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_VSOCK_PACKET_H_
#define CLOISTER_DEVICES_VIRTIO_VSOCK_PACKET_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace cloister::devices::virtio {

// The operations of a packet (virtio 1.3, section 5.10.6).
enum class VsockOp : uint16_t {
  kInvalid = 0,
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kReadWrite = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

inline constexpr uint64_t kVsockHostCid = 2;
inline constexpr uint64_t kVsockMinGuestCid = 3;
inline constexpr uint64_t kVsockMaxGuestCid = 0xfffffffe;
inline constexpr uint32_t kVsockAnyPort = 0xffffffff;

// What stands before each packet (virtio 1.3, section 5.10.6), in host order.
struct VsockHeader {
  static constexpr size_t kSize = 44;
  static constexpr uint16_t kStream = 1;
  // SHUTDOWN: what the sender will not do any more.
  static constexpr uint32_t kNoReceive = 1;
  static constexpr uint32_t kNoSend = 2;

  uint64_t src_cid = 0;
  uint64_t dst_cid = 0;
  uint32_t src_port = 0;
  uint32_t dst_port = 0;
  uint32_t len = 0;  // bytes of payload
  uint16_t type = kStream;
  VsockOp op = VsockOp::kInvalid;  // may hold any number
  uint32_t flags = 0;
  uint32_t buf_alloc = 0;
  uint32_t fwd_cnt = 0;

  static VsockHeader Parse(const std::array<uint8_t, kSize>& bytes);
  std::array<uint8_t, kSize> Serialize() const;
};

// Whether the fields that need no connection to judge are as the specification
// wants them, payload_room bytes having come with the header.
bool VsockHeaderIsValid(const VsockHeader& header, uint64_t payload_room);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_VSOCK_PACKET_H_
