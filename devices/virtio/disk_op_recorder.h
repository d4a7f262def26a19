// SPDX-License-Identifier: Apache-2.0
//
// Keeps what became of disk operations, for tests of the engines.
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_OP_RECORDER_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_OP_RECORDER_H_

#include <chrono>
#include <map>

#include "absl/base/thread_annotations.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/virtio/disk_engine.h"

namespace cloister::devices::virtio {

// Keeps what became of each operation. Thread-safe.
class DiskOpRecorder : public DiskEngine::Client {
 public:
  void OnDiskOpDone(DiskOp* op, int error) override {
    DiskOp* next = nullptr;
    {
      base::MutexLock lock(&mutex_);
      done_[op] = error;
      auto then = then_.find(op);
      if (then != then_.end()) next = then->second;
      changed_.SignalAll();
    }
    if (next != nullptr) engine_->Submit(next);
  }
  void OnDiskOpsSettled() override {
    base::MutexLock lock(&mutex_);
    ++settled_;
    changed_.SignalAll();
  }

  // Submits `next` from the callback for `op`.
  void Then(DiskOp* op, DiskOp* next, DiskEngine* engine) {
    base::MutexLock lock(&mutex_);
    then_[op] = next;
    engine_ = engine;
  }
  int Wait(DiskOp* op) {
    base::MutexLock lock(&mutex_);
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (done_.count(op) == 0) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return -1;
    }
    const int error = done_[op];
    done_.erase(op);  // the test may reuse it
    return error;
  }
  int settled() {
    base::MutexLock lock(&mutex_);
    return settled_;
  }
  int WaitSettled() {
    base::MutexLock lock(&mutex_);
    while (settled_ == 0) changed_.Wait(&mutex_);
    return settled_;
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  std::map<DiskOp*, int> done_ ABSL_GUARDED_BY(mutex_);
  std::map<DiskOp*, DiskOp*> then_ ABSL_GUARDED_BY(mutex_);
  DiskEngine* engine_ = nullptr;
  int settled_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_OP_RECORDER_H_
