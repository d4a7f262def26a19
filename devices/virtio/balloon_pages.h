// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_BALLOON_PAGES_H_
#define CLOISTER_DEVICES_VIRTIO_BALLOON_PAGES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/memory/guest_address.h"

namespace cloister::devices::virtio {

// Takes pages from a guest that gives them up, and gives them back. Ranges are
// page-aligned, and otherwise whatever the guest said: InvalidArgument, and
// nothing done, unless all of one is ordinary RAM of the guest's own (not
// aliased, no window of a device). May take a while; called by one thread.
class BalloonPages {
 public:
  virtual ~BalloonPages() = default;

  // The guest does not use these pages until it takes them back: frees what
  // backs them, shared or private, and returns the bytes that were given up.
  virtual absl::StatusOr<uint64_t> GiveUp(const memory::GuestRange& range) = 0;
  // The guest is about to use them again; they have the state that they had,
  // and no content. Pages that were not given up stay as they are.
  virtual absl::Status TakeBack(const memory::GuestRange& range) = 0;
  // As TakeBack for everything that was given up.
  virtual absl::Status TakeBackAll() = 0;
  // The guest does not care for the content of these pages now, and may use
  // them again as soon as this returns (free page reporting).
  virtual absl::StatusOr<uint64_t> Discard(const memory::GuestRange& range) = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_BALLOON_PAGES_H_
