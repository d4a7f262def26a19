// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/worker.h"

#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::ElementsAre;

TEST(WorkerTest, RunsTasksInOrder) {
  std::vector<int> order;
  std::promise<void> done;
  Worker worker;
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(worker.Run([&, i] { order.push_back(i); }));
  }
  EXPECT_TRUE(worker.Run([&] { done.set_value(); }));
  done.get_future().wait();
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3));
}

TEST(WorkerTest, RefusesWhatIsTooMuch) {
  Worker worker(/*limit=*/2);
  std::promise<void> entered, leave, done;
  EXPECT_TRUE(worker.Run([&] {
    entered.set_value();
    leave.get_future().wait();
  }));
  entered.get_future().wait();
  // The one that runs does not wait any more.
  EXPECT_TRUE(worker.Run([] {}));
  EXPECT_TRUE(worker.Run([&] { done.set_value(); }));
  EXPECT_FALSE(worker.Run([] { ADD_FAILURE(); }));
  leave.set_value();
  done.get_future().wait();
  EXPECT_TRUE(worker.Run([] {}));
}

TEST(WorkerTest, EndFinishesOneTaskAndDropsTheRest) {
  auto held = std::make_shared<int>(1);
  std::promise<void> entered, leave;
  bool finished = false;
  auto worker = std::make_unique<Worker>();
  worker->Run([&] {
    entered.set_value();
    leave.get_future().wait();
    finished = true;
  });
  entered.get_future().wait();
  int ran = 0;
  worker->Run([held, &ran] { ++ran; });
  std::thread release([&] { leave.set_value(); });
  worker.reset();
  release.join();
  // The second one may have begun before the end came, or not at all; it is
  // gone in any case.
  EXPECT_LE(ran, 1);
  EXPECT_TRUE(finished);
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace cloister::api
