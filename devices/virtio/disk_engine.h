// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/event_loop.h"
#include "cloister/devices/virtio/disk_op.h"

namespace cloister::devices::virtio {

// Does disk operations while its caller goes on: many at a time, in no
// particular order. A flush covers what was done when it was submitted, no
// more. Belongs to the thread of an event loop.
class DiskEngine {
 public:
  // Called on the loop's thread, never from within Submit, but perhaps from
  // within Commit. Both may submit.
  class Client {
   public:
    virtual ~Client() = default;
    // `op` is the caller's again. `error` is 0, all of it done, or an errno.
    virtual void OnDiskOpDone(DiskOp* op, int error) = 0;
    // No more operations are known to be done at this moment.
    virtual void OnDiskOpsSettled() = 0;
  };

  // Gives up what Cancel gives up and waits for the rest, without telling the
  // client of either. On the loop's thread, or when the loop no longer runs.
  virtual ~DiskEngine() = default;

  // "io_uring", "threads".
  virtual absl::string_view name() const = 0;
  // Takes `op`, which may not start before the next Commit.
  virtual void Submit(DiskOp* op) = 0;
  // Starts what was submitted. Not needed within the client's callbacks.
  virtual void Commit() = 0;
  // Gives up what was submitted so far, but for operations with `keep`. What
  // has not begun never does, a transfer ends with the attempt under way (at
  // most kDiskAttempt bytes): the client hears of these later, with ECANCELED.
  // A flush, discard or write-zeroes that has begun is done to its end, and so
  // may be the last attempt of a transfer.
  virtual void Cancel() = 0;
};

enum class DiskEngineKind {
  kAuto,     // io_uring, or threads where the kernel or its policy has none
  kIoUring,  // an error where there is none
  kThreads,
};

struct DiskEngineOptions {
  DiskEngineKind kind = DiskEngineKind::kAuto;
  // Runs first on each thread of the engine's own (a seccomp filter).
  std::function<void()> on_thread_start;
};

// `loop` and `client` outlive the engine.
using DiskEngineFactory =
    std::function<absl::StatusOr<std::unique_ptr<DiskEngine>>(
        base::EventLoop& loop, DiskEngine::Client& client)>;

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_H_
