// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_thread_engine.h"

#include <atomic>

#include "cloister/devices/virtio/disk_engine_contract.h"

namespace cloister::devices::virtio {
namespace {

absl::StatusOr<std::unique_ptr<DiskEngine>> Make(
    base::EventLoop& loop, DiskEngine::Client& client,
    std::function<void()> on_thread_start) {
  return DiskThreadEngine::Create(loop, client, DiskThreadEngine::kThreads,
                                  std::move(on_thread_start));
}

INSTANTIATE_TEST_SUITE_P(Threads, DiskEngineTest, ::testing::Values(&Make));

TEST_P(DiskEngineTest, SaysWhatItIs) { EXPECT_EQ(engine_->name(), "threads"); }

TEST(DiskThreadEngineTest, RunsTheHookOnEachThread) {
  std::atomic<int> started{0};
  ASSERT_OK_AND_ASSIGN(auto loop, base::EventLoop::Create());
  DiskOpRecorder recorder;
  ASSERT_OK_AND_ASSIGN(
      auto engine,
      DiskThreadEngine::Create(*loop, recorder, 3, [&] { ++started; }));
  engine.reset();
  EXPECT_EQ(started, 3);
}

}  // namespace
}  // namespace cloister::devices::virtio
