// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_FACTORY_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_FACTORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/devices/virtio/disk_engine.h"

namespace cloister::devices::virtio {

// The engine that `options` names. With kAuto a host whose kernel has no
// io_uring, or forbids it (io_uring_disabled, seccomp), or has not the memory
// for a ring, gets threads. `loop` and `client` outlive the engine.
absl::StatusOr<std::unique_ptr<DiskEngine>> CreateDiskEngine(
    const DiskEngineOptions& options, base::EventLoop& loop,
    DiskEngine::Client& client);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_FACTORY_H_
