// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/worker.h"

#include <pthread.h>

#include <future>
#include <string>

#include "cloister/base/event_fd.h"
#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

TEST(WorkerTest, RunsTasksOnItsOwnNamedThread) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<Worker> worker,
                       Worker::Create("a-very-long-worker-name"));
  std::promise<std::string> name;
  worker->loop().Post([&] {
    EXPECT_TRUE(worker->IsCurrent());
    char buffer[32] = {};
    pthread_getname_np(pthread_self(), buffer, sizeof(buffer));
    name.set_value(buffer);
  });
  EXPECT_EQ(name.get_future().get(), "a-very-long-wor");
  EXPECT_FALSE(worker->IsCurrent());
}

TEST(WorkerTest, RunsOnStartBeforeAnyTask) {
  int order = 0;
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<Worker> worker,
                       Worker::Create("w", [&] { order = 1; }));
  std::promise<int> seen;
  worker->loop().Post([&] { seen.set_value(order); });
  EXPECT_EQ(seen.get_future().get(), 1);
}

TEST(WorkerTest, StopsWhenDestroyed) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<Worker> worker, Worker::Create("w"));
  worker.reset();  // Joins: a loop that went on would hang the test here.
}

TEST(WorkerTest, KeepsTheLoopAfterStop) {
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<Worker> worker, Worker::Create("w"));
  ASSERT_OK_AND_ASSIGN(base::EventFd event, base::EventFd::Create());
  ASSERT_OK(worker->loop().Add(event.fd(), EPOLLIN, [](uint32_t) {}));
  worker->Stop();
  worker->Stop();
  worker->loop().Remove(event.fd());
}

}  // namespace
}  // namespace cloister::devices::virtio
