// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_NOTIFY_BINDER_H_
#define CLOISTER_DEVICES_VIRTIO_NOTIFY_BINDER_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "cloister/base/event_fd.h"

namespace cloister::devices::virtio {

// The guest's write that notifies a queue.
struct NotifyAddress {
  enum class Space { kPio, kMmio };
  Space space = Space::kPio;
  uint64_t address = 0;
  uint32_t width = 2;  // bytes
  // Only writes of this value.
  std::optional<uint64_t> value = {};
};

// Lets the hypervisor signal an event when the guest writes somewhere, so that
// no vCPU leaves the guest for it. Implemented by vmm with ioeventfds.
// Thread-safe.
class NotifyBinder {
 public:
  virtual ~NotifyBinder() = default;
  // On an error the write comes over the bus as any other.
  virtual absl::Status Bind(const NotifyAddress& address,
                            const base::EventFd& event) = 0;
  // Undoes Bind with the same arguments.
  virtual void Unbind(const NotifyAddress& address,
                      const base::EventFd& event) = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_NOTIFY_BINDER_H_
