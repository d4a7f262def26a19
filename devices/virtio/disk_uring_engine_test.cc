// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_uring_engine.h"

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

}  // namespace
}  // namespace cloister::devices::virtio
