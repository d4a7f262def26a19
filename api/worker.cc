// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/worker.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace cloister::api {

Worker::Worker(size_t limit) : limit_(limit) {
  sigset_t all, before;
  ::sigfillset(&all);
  // What the thread itself causes: blocked, it would end the process without
  // its handler, which says why (a refused system call).
  for (int fault :
       {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
    ::sigdelset(&all, fault);
  }
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  base::MutexLock lock(&mutex_);
  thread_ = std::thread([this] { Loop(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
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
