// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_NET_MAC_H_
#define CLOISTER_DEVICES_VIRTIO_NET_MAC_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cloister::devices::virtio {

// The Ethernet address of one interface.
class NetMac {
 public:
  // "52:54:00:12:34:56". InvalidArgument, quoting it, for another form, a
  // multicast address or all zeroes.
  static absl::StatusOr<NetMac> Parse(absl::string_view text);
  // A random one, locally administered.
  static absl::StatusOr<NetMac> Random();

  const std::array<uint8_t, 6>& bytes() const { return bytes_; }
  std::string ToString() const;
  bool operator==(const NetMac&) const = default;

 private:
  explicit NetMac(const std::array<uint8_t, 6>& bytes) : bytes_(bytes) {}
  std::array<uint8_t, 6> bytes_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_MAC_H_
