// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_MSI_SINK_H_
#define CLOISTER_DEVICES_VIRTIO_MSI_SINK_H_

#include <cstdint>

namespace cloister::devices::virtio {

// Where message-signalled interrupts go. Implemented by vmm. Thread-safe; never
// blocks.
class MsiSink {
 public:
  virtual ~MsiSink() = default;
  // What a device's write of `data` to `address` does: an interrupt, if the
  // address is the local APICs'.
  virtual void Send(uint64_t address, uint32_t data) = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_MSI_SINK_H_
