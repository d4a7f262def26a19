// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_thread_engine.h"

#include <pthread.h>
#include <sys/epoll.h>

#include <cerrno>
#include <system_error>

#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

absl::StatusOr<std::unique_ptr<DiskEngine>> DiskThreadEngine::Create(
    base::EventLoop& loop, Client& client, size_t threads,
    std::function<void()> on_start) {
  ASSIGN_OR_RETURN(base::EventFd done, base::EventFd::Create());
  std::unique_ptr<DiskThreadEngine> engine(
      new DiskThreadEngine(loop, client, std::move(done)));
  for (size_t i = 0; i < threads; ++i) {
    engine->threads_.emplace_back([engine = engine.get(), on_start] {
      pthread_setname_np(pthread_self(), "disk");
      if (on_start) on_start();
      engine->Work();
    });
  }
  RETURN_IF_ERROR(
      loop.Add(engine->done_event_.fd(), EPOLLIN,
               [engine = engine.get()](uint32_t) { engine->OnDone(); }));
  return engine;
}

DiskThreadEngine::~DiskThreadEngine() {
  loop_.Remove(done_event_.fd());
  {
    base::MutexLock lock(&mutex_);
    stopping_ = true;
    GiveUp();
  }
  work_.SignalAll();
  for (std::thread& thread : threads_) thread.join();
}

void DiskThreadEngine::Submit(DiskOp* op) {
  op->cancels = cancels_;
  {
    base::MutexLock lock(&mutex_);
    waiting_.push_back(op);
  }
  work_.Signal();
}

std::vector<DiskOp*> DiskThreadEngine::GiveUp() {
  ++cancels_;
  return TakeCancelled(waiting_);
}

void DiskThreadEngine::Cancel() {
  {
    base::MutexLock lock(&mutex_);
    for (DiskOp* op : GiveUp()) done_.emplace_back(op, ECANCELED);
  }
  done_event_.Signal();
}

void DiskThreadEngine::Work() {
  for (;;) {
    DiskOp* op;
    {
      base::MutexLock lock(&mutex_);
      while (waiting_.empty() && !stopping_) work_.Wait(&mutex_);
      if (waiting_.empty()) return;
      op = waiting_.front();
      waiting_.pop_front();
    }
    const int error =
        RunBlocking(*op, [&] { return IsCancelled(*op, cancels_); });
    {
      base::MutexLock lock(&mutex_);
      done_.emplace_back(op, error);
    }
    done_event_.Signal();
  }
}

void DiskThreadEngine::OnDone() {
  done_event_.Drain();
  std::vector<std::pair<DiskOp*, int>> done;
  {
    base::MutexLock lock(&mutex_);
    done.swap(done_);
  }
  for (const auto& [op, error] : done) client_.OnDiskOpDone(op, error);
  if (!done.empty()) client_.OnDiskOpsSettled();
}

}  // namespace cloister::devices::virtio
