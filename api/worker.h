// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_WORKER_H_
#define CLOISTER_API_WORKER_H_

#include <deque>
#include <functional>
#include <thread>

#include "cloister/base/mutex.h"

namespace cloister::api {

// A thread for what may take long, one task after the other, so that the
// thread that serves the API never waits. Thread-safe. The thread starts with
// the object, so that it inherits what its maker may do, and blocks all
// signals.
class Worker {
 public:
  explicit Worker(size_t limit = 64);
  // Waits for the task that runs; those that have not begun are destroyed
  // without having run.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // False, and the task is dropped, if `limit` tasks wait already.
  bool Run(std::function<void()> task);

 private:
  void Loop();

  const size_t limit_;
  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cloister::api

#endif  // CLOISTER_API_WORKER_H_
