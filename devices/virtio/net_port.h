// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_NET_PORT_H_
#define CLOISTER_DEVICES_VIRTIO_NET_PORT_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace cloister::devices::virtio {

// What the host may hand to the guest unfinished, because the guest accepted
// the feature.
struct NetOffloads {
  bool checksum = false;  // partial checksums; the others need it
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;
  bool ufo = false;

  bool operator==(const NetOffloads&) const = default;
};

// One queue of a network interface: packets, each behind a header of
// NetHeader::kSize bytes. Used by one thread at a time.
class NetPort {
 public:
  virtual ~NetPort() = default;

  // Readable when a packet may wait, writable when one may be sent.
  virtual int fd() const = 0;

  // One packet into, or from, the buffers, without blocking: the bytes moved,
  // or -1 and errno. What has no room in the buffers is lost.
  virtual ssize_t Receive(absl::Span<const struct iovec> to) = 0;
  virtual ssize_t Send(absl::Span<const struct iovec> from) = 0;

  virtual absl::Status SetOffloads(const NetOffloads& offloads) = 0;
  // Whether the interface sends packets to this queue.
  virtual absl::Status SetEnabled(bool enabled) = 0;
  // True once the interface behind the descriptor no longer exists.
  virtual bool IsGone() = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NET_PORT_H_
