// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_uring_engine.h"

#include <chrono>
#include <future>
#include <string>

#include "cloister/devices/virtio/disk_engine_contract.h"

namespace cloister::devices::virtio {
namespace {

absl::StatusOr<std::unique_ptr<DiskEngine>> Make(
    base::EventLoop& loop, DiskEngine::Client& client,
    std::function<void()> on_thread_start) {
  return DiskUringEngine::Create(loop, client, std::move(on_thread_start));
}

INSTANTIATE_TEST_SUITE_P(IoUring, DiskEngineTest, ::testing::Values(&Make));

TEST_P(DiskEngineTest, SaysWhatItIs) { EXPECT_EQ(engine_->name(), "io_uring"); }

// And so is what their callbacks submit.
TEST_P(DiskEngineTest, LoneCachedTransfersAreDoneByTheirCommit) {
  std::string out = DiskTestPattern(65536, 9);
  std::string in(out.size(), '!');
  DiskOp write = Op(DiskOp::Kind::kWrite, 4096, out);
  DiskOp read = Op(DiskOp::Kind::kRead, 4096, in);
  recorder_.Then(&write, &read, engine_.get());
  std::promise<int> settled;
  worker_->loop().Post([&] {
    engine_->Submit(&write);
    engine_->Commit();
    settled.set_value(recorder_.settled());
  });
  EXPECT_EQ(settled.get_future().get(), 2);
  EXPECT_EQ(recorder_.Wait(&write), 0);
  EXPECT_EQ(recorder_.Wait(&read), 0);
  EXPECT_EQ(in, out);
}

TEST_P(DiskEngineTest, AfterASlowTransferTheRingHasTheNext) {
  int looks =
      0;  // at the clock; the engine's thread's, and each takes a second
  std::promise<void> made;
  worker_->loop().Post([&] {
    engine_ = DiskUringEngine::Create(worker_->loop(), recorder_, nullptr, [&] {
                return std::chrono::steady_clock::time_point(
                    std::chrono::seconds(++looks));
              }).value();
    made.set_value();
  });
  made.get_future().wait();
  // Whether it was done, and timed, here.
  auto done_here = [&] {
    std::string bytes(512, 'x');
    DiskOp write = Op(DiskOp::Kind::kWrite, 0, bytes);
    std::promise<bool> looked;
    worker_->loop().Post([&] {
      const int before = looks;
      engine_->Submit(&write);
      engine_->Commit();
      looked.set_value(looks > before);
    });
    EXPECT_EQ(recorder_.Wait(&write), 0);
    return looked.get_future().get();
  };
  EXPECT_TRUE(done_here());
  int others = 0;
  while (!done_here()) ASSERT_LE(++others, DiskUringEngine::kSlowFor);
  EXPECT_EQ(others, DiskUringEngine::kSlowFor);
}

}  // namespace
}  // namespace cloister::devices::virtio
