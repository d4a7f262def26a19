// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_THREAD_ENGINE_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_THREAD_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_fd.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/virtio/disk_engine.h"

namespace cloister::devices::virtio {

// Disk operations by blocking system calls on a few threads: works everywhere.
class DiskThreadEngine : public DiskEngine {
 public:
  static constexpr size_t kThreads = 4;

  // `on_start`, if set, runs first on each thread.
  static absl::StatusOr<std::unique_ptr<DiskEngine>> Create(
      base::EventLoop& loop, Client& client, size_t threads,
      std::function<void()> on_start = nullptr);
  ~DiskThreadEngine() override;

  absl::string_view name() const override { return "threads"; }
  void Submit(DiskOp* op) override;
  void Commit() override {}
  void Cancel() override;

 private:
  DiskThreadEngine(base::EventLoop& loop, Client& client, base::EventFd done)
      : loop_(loop), client_(client), done_event_(std::move(done)) {}
  void Work();
  void OnDone();
  // Takes out of waiting_ what a cancel gives up.
  std::vector<DiskOp*> GiveUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  base::EventLoop& loop_;
  Client& client_;
  const base::EventFd done_event_;
  std::vector<std::thread> threads_;
  std::atomic<uint64_t> cancels_{0};

  base::Mutex mutex_;
  base::CondVar work_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<DiskOp*> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<DiskOp*, int>> done_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_THREAD_ENGINE_H_
