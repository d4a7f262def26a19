// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/vsock_packet.h"

#include "cloister/base/bytes.h"

namespace cloister::devices::virtio {

using base::LoadLe;
using base::StoreLe;

VsockHeader VsockHeader::Parse(const std::array<uint8_t, kSize>& bytes) {
  const uint8_t* at = bytes.data();
  VsockHeader header;
  header.src_cid = LoadLe<uint64_t>(at);
  header.dst_cid = LoadLe<uint64_t>(at + 8);
  header.src_port = LoadLe<uint32_t>(at + 16);
  header.dst_port = LoadLe<uint32_t>(at + 20);
  header.len = LoadLe<uint32_t>(at + 24);
  header.type = LoadLe<uint16_t>(at + 28);
  header.op = static_cast<VsockOp>(LoadLe<uint16_t>(at + 30));
  header.flags = LoadLe<uint32_t>(at + 32);
  header.buf_alloc = LoadLe<uint32_t>(at + 36);
  header.fwd_cnt = LoadLe<uint32_t>(at + 40);
  return header;
}

std::array<uint8_t, VsockHeader::kSize> VsockHeader::Serialize() const {
  std::array<uint8_t, kSize> bytes;
  uint8_t* at = bytes.data();
  StoreLe<uint64_t>(at, src_cid);
  StoreLe<uint64_t>(at + 8, dst_cid);
  StoreLe<uint32_t>(at + 16, src_port);
  StoreLe<uint32_t>(at + 20, dst_port);
  StoreLe<uint32_t>(at + 24, len);
  StoreLe<uint16_t>(at + 28, type);
  StoreLe<uint16_t>(at + 30, static_cast<uint16_t>(op));
  StoreLe<uint32_t>(at + 32, flags);
  StoreLe<uint32_t>(at + 36, buf_alloc);
  StoreLe<uint32_t>(at + 40, fwd_cnt);
  return bytes;
}

bool VsockHeaderIsValid(const VsockHeader& header, uint64_t payload_room) {
  if (header.type != VsockHeader::kStream) return false;
  if (header.src_port == kVsockAnyPort || header.dst_port == kVsockAnyPort) {
    return false;
  }
  switch (header.op) {
    case VsockOp::kReadWrite:
      return header.flags == 0 && header.len <= payload_room;
    case VsockOp::kShutdown:
      return header.len == 0 && header.flags != 0 &&
             header.flags <= (VsockHeader::kNoReceive | VsockHeader::kNoSend);
    case VsockOp::kRequest:
    case VsockOp::kResponse:
    case VsockOp::kReset:
    case VsockOp::kCreditUpdate:
    case VsockOp::kCreditRequest:
      return header.len == 0 && header.flags == 0;
    default:
      return false;
  }
}

}  // namespace cloister::devices::virtio
