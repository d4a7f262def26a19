// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/worker.h"

#include <pthread.h>

#include <utility>

#include "cloister/base/blocked_signals.h"

namespace cloister::api {

Worker::Worker(size_t limit) : limit_(limit) {
  const base::BlockedSignals blocked;
  base::MutexLock lock(&mutex_);
  thread_ = std::thread([this] { Loop(); });
}

Worker::~Worker() {
  std::thread thread;
  {
    base::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.Signal();
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

bool Worker::Run(std::function<void()> task) {
  base::MutexLock lock(&mutex_);
  if (stopping_ || tasks_.size() >= limit_) return false;
  tasks_.push_back(std::move(task));
  changed_.Signal();
  return true;
}

void Worker::Loop() {
  ::pthread_setname_np(::pthread_self(), "api-worker");
  for (;;) {
    std::function<void()> task;
    {
      base::MutexLock lock(&mutex_);
      while (!stopping_ && tasks_.empty()) changed_.Wait(&mutex_);
      if (stopping_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace cloister::api
