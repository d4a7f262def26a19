// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/worker.h"

#include <pthread.h>

#include <utility>

#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(
    const std::string& name, std::function<void()> on_start) {
  ASSIGN_OR_RETURN(std::unique_ptr<base::EventLoop> loop,
                   base::EventLoop::Create());
  std::unique_ptr<Worker> worker(new Worker(std::move(loop)));
  worker->thread_ =
      std::thread([loop = worker->loop_.get(), short_name = name.substr(0, 15),
                   on_start = std::move(on_start)] {
        pthread_setname_np(pthread_self(), short_name.c_str());
        if (on_start) on_start();
        // An error of epoll itself leaves a device that answers no more; its
        // driver times out.
        loop->Run().IgnoreError();
      });
  return worker;
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  if (!thread_.joinable()) return;
  loop_->Stop();
  thread_.join();
}

}  // namespace cloister::devices::virtio
