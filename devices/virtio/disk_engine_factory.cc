// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_engine_factory.h"

#include <cerrno>
#include <utility>

#include "cloister/base/syscall.h"
#include "cloister/devices/virtio/disk_thread_engine.h"
#include "cloister/devices/virtio/disk_uring_engine.h"

namespace cloister::devices::virtio {
namespace {

// Whether the host has no io_uring to give, as opposed to a mistake of ours.
bool HasNoUring(const absl::Status& status) {
  const int error = base::StatusErrno(status);
  return error == ENOSYS || error == EPERM || error == EACCES ||
         error == ENOMEM;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskEngine>> CreateDiskEngine(
    const DiskEngineOptions& options, base::EventLoop& loop,
    DiskEngine::Client& client) {
  if (options.kind != DiskEngineKind::kThreads) {
    absl::StatusOr<std::unique_ptr<DiskEngine>> engine =
        DiskUringEngine::Create(loop, client, options.on_thread_start);
    if (engine.ok() || options.kind == DiskEngineKind::kIoUring ||
        !HasNoUring(engine.status())) {
      return engine;
    }
  }
  return DiskThreadEngine::Create(loop, client, DiskThreadEngine::kThreads,
                                  options.on_thread_start);
}

}  // namespace cloister::devices::virtio
