// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_FAKE_ENGINE_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_FAKE_ENGINE_H_

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "cloister/base/event_loop.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/virtio/disk_engine.h"

namespace cloister::devices::virtio {

// What a test wants of the engines that MakeFactory makes: operations that
// fail, or that stay in flight until they are let go. Otherwise they are done,
// for real and in order. Thread-safe; outlives the engines.
class DiskFault {
 public:
  DiskFault() = default;
  DiskEngineFactory MakeFactory();

  // From now on operations of this kind fail with `error`; 0: no more.
  void Fail(DiskOp::Kind kind, int error);
  // From now on operations are done by the next Commit, not by a later turn.
  void FinishAtOnce();
  // From now on operations stay in flight.
  void Hold();
  // Finishes what is in flight, and holds no more.
  void Release();
  // Waits until exactly `count` are in flight; false after ten seconds.
  bool WaitForHeld(size_t count);
  // Everything that was submitted so far, in order.
  std::vector<DiskOp> log() const;

 private:
  friend class DiskFakeEngine;
  int ErrorOf(DiskOp::Kind kind) const;

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  bool at_once_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<DiskOp::Kind, int> errors_ ABSL_GUARDED_BY(mutex_);
  std::vector<DiskOp*> held_ ABSL_GUARDED_BY(mutex_);
  std::vector<DiskOp> log_ ABSL_GUARDED_BY(mutex_);
  class DiskFakeEngine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// The engine behind it. Does an operation when its loop gets to it, or at once.
class DiskFakeEngine : public DiskEngine {
 public:
  DiskFakeEngine(base::EventLoop& loop, Client& client, DiskFault& fault);
  ~DiskFakeEngine() override;
  absl::string_view name() const override { return "fake"; }
  void Submit(DiskOp* op) override;
  void Commit() override;
  // Transfers and flushes count as begun, what IsSlow as waiting.
  void Cancel() override;

 private:
  friend class DiskFault;
  void Finish(const std::vector<DiskOp*>& ops);
  void Run(DiskOp* op);

  base::EventLoop& loop_;
  Client& client_;
  DiskFault& fault_;
  std::deque<DiskOp*> at_once_;  // the loop's thread alone
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_FAKE_ENGINE_H_
