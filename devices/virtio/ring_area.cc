// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/ring_area.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"

namespace cloister::devices::virtio {

using memory::GuestAddress;
using memory::GuestRange;
using memory::Lease;
using memory::SharedView;

absl::Status QueueErrorFrom(QueueError error, absl::string_view what,
                            const absl::Status& refusal) {
  absl::Status status =
      MakeQueueError(error, absl::StrCat(what, ": ", refusal.message()));
  refusal.ForEachPayload([&status](absl::string_view url, absl::Cord payload) {
    status.SetPayload(url, std::move(payload));
  });
  return status;
}

absl::StatusOr<RingArea> RingArea::Create(SharedView& view,
                                          absl::string_view name,
                                          GuestAddress start, uint64_t size,
                                          uint64_t alignment) {
  if (!base::IsAligned(start.value(), alignment)) {
    return MakeQueueError(QueueError::kMisalignedRing,
                          absl::StrCat(name, " at ", start.ToString(),
                                       ", alignment ", alignment));
  }
  // By address, so that the view names and counts ranges that wrap.
  absl::StatusOr<Lease> lease = view.Acquire(start, size);
  if (!lease.ok()) {
    return QueueErrorFrom(QueueError::kRingNotShared, name, lease.status());
  }
  return RingArea(view, name, lease->range());
}

}  // namespace cloister::devices::virtio
