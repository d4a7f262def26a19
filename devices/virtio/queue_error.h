// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_QUEUE_ERROR_H_
#define CLOISTER_DEVICES_VIRTIO_QUEUE_ERROR_H_

#include <cstddef>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace cloister::devices::virtio {

// What a driver did to a virtqueue that the device cannot go on from. Counted
// per device; the device then needs a reset.
enum class QueueError {
  kBadSize,         // zero, too large, or not a power of two (split)
  kMisalignedRing,  // a ring's address breaks its alignment
  kRingNotShared,  // a ring lies in private, aliased, unmapped, wrapping memory
  kBufferNotShared,  // a buffer does
  kTableNotShared,   // an indirect table does
  kAvailJump,        // the avail index ran ahead by more than the ring's size
  kBadIndex,         // a descriptor index beyond the table
  kLoop,             // a chain longer than its table
  kBadIndirect,      // nested, misplaced, empty, too long or not negotiated
  kBadOrder,         // a readable descriptor after a writable one
  kEmptyBuffer,      // a descriptor, or a whole chain, of no bytes
  kTooLong,          // more than 2^32-1 bytes in one chain
  kBadRequest,       // the device's own rules: a request it cannot parse
};
inline constexpr size_t kQueueErrorCount = 13;

// "ring-not-shared", ...
absl::string_view QueueErrorName(QueueError error);

// An InvalidArgument that carries `error`, and reads "<name>: <detail>".
absl::Status MakeQueueError(QueueError error, absl::string_view detail);
// The reason behind such a status; nullopt for other errors.
std::optional<QueueError> QueueErrorOf(const absl::Status& status);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_QUEUE_ERROR_H_
