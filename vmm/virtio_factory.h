// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_VIRTIO_FACTORY_H_
#define CLOISTER_VMM_VIRTIO_FACTORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/base/log.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/virtio/balloon_pages.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/vmm/device_config.h"
#include "cloister/vmm/virtio_control.h"

namespace cloister::vmm {

struct VirtioFactoryOptions {
  // Runs first on each device's thread (a seccomp filter).
  std::function<void()> on_thread_start;
  base::Logger* log = &base::Logger::Null();
  // For a balloon: whose pages it takes, and how many bytes there are. Outlives
  // the devices.
  devices::virtio::BalloonPages* balloon_pages = nullptr;
  uint64_t ram = 0;
  // For a console: where its output goes, and what it calls when it takes input
  // again after it could not take all. Outlives the devices.
  devices::SerialSink* console = nullptr;
  std::function<void()> on_console_room;
  // Gets the devices in their order, if it is there; of no use after an error.
  VirtioControl* control = nullptr;
};

// The virtio devices of `config`, in the order of their places. Opens files,
// taps and sockets. Errors are one line that names the option and its value.
absl::StatusOr<std::vector<std::unique_ptr<devices::virtio::VirtioDevice>>>
CreateVirtioDevices(const DevicesConfig& config,
                    const VirtioFactoryOptions& options);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_VIRTIO_FACTORY_H_
