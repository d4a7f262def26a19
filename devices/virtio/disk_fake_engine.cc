// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_fake_engine.h"

#include <cerrno>
#include <chrono>
#include <utility>

namespace cloister::devices::virtio {

DiskEngineFactory DiskFault::MakeFactory() {
  return [this](base::EventLoop& loop, DiskEngine::Client& client)
             -> absl::StatusOr<std::unique_ptr<DiskEngine>> {
    return std::make_unique<DiskFakeEngine>(loop, client, *this);
  };
}

void DiskFault::Fail(DiskOp::Kind kind, int error) {
  base::MutexLock lock(&mutex_);
  errors_[kind] = error;
}

void DiskFault::FinishAtOnce() {
  base::MutexLock lock(&mutex_);
  at_once_ = true;
}

void DiskFault::Hold() {
  base::MutexLock lock(&mutex_);
  hold_ = true;
}

void DiskFault::Release() {
  base::MutexLock lock(&mutex_);
  hold_ = false;
  if (engine_ != nullptr) engine_->Finish(held_);
  held_.clear();
}

bool DiskFault::WaitForHeld(size_t count) {
  base::MutexLock lock(&mutex_);
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (held_.size() != count) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return false;
  }
  return true;
}

std::vector<DiskOp> DiskFault::log() const {
  base::MutexLock lock(&mutex_);
  return log_;
}

int DiskFault::ErrorOf(DiskOp::Kind kind) const {
  base::MutexLock lock(&mutex_);
  auto found = errors_.find(kind);
  return found == errors_.end() ? 0 : found->second;
}

DiskFakeEngine::DiskFakeEngine(base::EventLoop& loop, Client& client,
                               DiskFault& fault)
    : loop_(loop), client_(client), fault_(fault) {
  base::MutexLock lock(&fault_.mutex_);
  fault_.engine_ = this;
}

DiskFakeEngine::~DiskFakeEngine() {
  base::MutexLock lock(&fault_.mutex_);
  fault_.engine_ = nullptr;
  fault_.held_.clear();
}

void DiskFakeEngine::Submit(DiskOp* op) {
  base::MutexLock lock(&fault_.mutex_);
  fault_.log_.push_back(*op);
  if (fault_.at_once_) {
    at_once_.push_back(op);
  } else if (fault_.hold_) {
    fault_.held_.push_back(op);
    fault_.changed_.SignalAll();
  } else {
    Finish({op});
  }
}

void DiskFakeEngine::Commit() {
  while (!at_once_.empty()) {
    DiskOp* op = at_once_.front();
    at_once_.pop_front();
    Run(op);
    client_.OnDiskOpsSettled();
  }
}

void DiskFakeEngine::Run(DiskOp* op) {
  const int error = fault_.ErrorOf(op->kind);
  client_.OnDiskOpDone(op,
                       error != 0 ? FinishOp(*op, error) : RunBlocking(*op));
}

void DiskFakeEngine::Cancel() {
  base::MutexLock lock(&fault_.mutex_);
  std::vector<DiskOp*> slow, kept;
  for (DiskOp* op : fault_.held_) {
    (IsSlow(op->kind) ? slow : kept).push_back(op);
  }
  fault_.held_.swap(kept);
  fault_.changed_.SignalAll();
  loop_.Post([this, slow] {
    for (DiskOp* op : slow) client_.OnDiskOpDone(op, ECANCELED);
  });
}

void DiskFakeEngine::Finish(const std::vector<DiskOp*>& ops) {
  loop_.Post([this, ops] {
    for (DiskOp* op : ops) Run(op);
    client_.OnDiskOpsSettled();
  });
}

}  // namespace cloister::devices::virtio
