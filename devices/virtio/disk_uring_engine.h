// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_URING_ENGINE_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_URING_ENGINE_H_

#include <liburing.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/devices/virtio/disk_engine.h"

namespace cloister::devices::virtio {

// Disk operations by io_uring(7): one system call for many. What io_uring
// cannot do on all kernels (discard and zeroes on block devices, with their
// fallbacks) goes to a thread. A transfer to or from the page cache that has no
// company is done at once, unless a read would have to wait for the disk: most
// file systems would have io_uring hand it to a thread of the kernel, and wake
// this one, for as long as it takes to copy it. Where that is slow all the same
// (a network's file system, a cache that is full of what is to be written), the
// ring has the next ones.
class DiskUringEngine : public DiskEngine, private DiskEngine::Client {
 public:
  using Client = DiskEngine::Client;
  using Clock = std::function<std::chrono::steady_clock::time_point()>;

  // Bytes of a transfer that may be done at once.
  static constexpr uint64_t kMostAtOnce = 1 << 20;
  // After one that took longer, so many others are not done at once.
  static constexpr std::chrono::milliseconds kSlow{2};
  static constexpr int kSlowFor = 64;

  // Operations that are handed to the kernel at once; more wait their turn.
  static constexpr unsigned kEntries = 256;

  // Unimplemented (ENOSYS) or PermissionDenied (EPERM) on hosts without
  // io_uring or one of the operations it needs (Linux 5.6).
  static absl::StatusOr<std::unique_ptr<DiskEngine>> Create(
      base::EventLoop& loop, Client& client,
      std::function<void()> on_thread_start = nullptr,
      Clock clock = &std::chrono::steady_clock::now);
  ~DiskUringEngine() override;

  absl::string_view name() const override { return "io_uring"; }
  void Submit(DiskOp* op) override;
  void Commit() override;
  void Cancel() override;

 private:
  DiskUringEngine(base::EventLoop& loop, Client& client, Clock clock)
      : loop_(loop), client_(client), clock_(std::move(clock)) {}
  // DiskEngine::Client of the thread.
  void OnDiskOpDone(DiskOp* op, int error) override {
    client_.OnDiskOpDone(op, error);
  }
  void OnDiskOpsSettled() override;
  bool IsBestDoneHere(const DiskOp& op) const;
  // Does what is queued as long as it is one transfer that is best done here.
  void RunLoneTransfers();
  // Queues one attempt at `op` if the ring has room; false if not.
  bool Prepare(DiskOp* op);
  void PrepareBacklog();
  void OnReady();
  // Accounts for one attempt's result.
  static DiskProgress Account(DiskOp* op, int result);
  struct Attempt {
    DiskOp* op = nullptr;
    DiskProgress progress;
  };
  // The next attempt that the ring reports, if there is one; prepares another
  // where the operation goes on.
  std::optional<Attempt> Reap();
  // Takes out of backlog_ what a cancel gives up.
  std::vector<DiskOp*> GiveUp();

  base::EventLoop& loop_;
  Client& client_;
  const Clock clock_;
  struct io_uring ring_ = {};
  bool ring_valid_ = false;
  unsigned in_flight_ = 0;       // attempts that the ring has yet to report
  bool reporting_ = false;       // within OnReady
  int slow_for_ = 0;             // transfers that are not to be done at once
  std::deque<DiskOp*> backlog_;  // waits for a commit, or room in the ring
  uint64_t cancels_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // no one else's
  std::shared_ptr<bool> retrying_ = std::make_shared<bool>(false);
  std::unique_ptr<DiskEngine> slow_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_URING_ENGINE_H_
