// SPDX-License-Identifier: Apache-2.0
//
// Internal to the queue library.
#ifndef CLOISTER_DEVICES_VIRTIO_RING_AREA_H_
#define CLOISTER_DEVICES_VIRTIO_RING_AREA_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/devices/virtio/queue_error.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// `refusal`, an error of SharedView, as the queue error `error`; keeps the
// ShareRefusal.
absl::Status QueueErrorFrom(QueueError error, absl::string_view what,
                            const absl::Status& refusal);

// One of the parts that a virtqueue consists of. Holds no lease.
class RingArea {
 public:
  // `name` must be a literal. kMisalignedRing; kRingNotShared unless all of it
  // is shared now.
  static absl::StatusOr<RingArea> Create(memory::SharedView& view,
                                         absl::string_view name,
                                         memory::GuestAddress start,
                                         uint64_t size, uint64_t alignment);

  // A lease on all of it; kRingNotShared if the guest took it away.
  absl::StatusOr<memory::Lease> Acquire() const {
    absl::StatusOr<memory::Lease> lease = view_->Acquire(range_);
    if (lease.ok()) return lease;
    return QueueErrorFrom(QueueError::kRingNotShared, name_, lease.status());
  }

 private:
  RingArea(memory::SharedView& view, absl::string_view name,
           const memory::GuestRange& range)
      : view_(&view), name_(name), range_(range) {}

  memory::SharedView* view_;
  absl::string_view name_;
  memory::GuestRange range_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_RING_AREA_H_
