// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_task.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/blk_request.h"
#include "cloister/devices/virtio/chain_builder.h"
#include "cloister/devices/virtio/disk_file.h"
#include "cloister/devices/virtio/disk_op.h"
#include "cloister/devices/virtio/disk_test_file.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::IsOkAndHolds;
using memory::GuestAddress;

constexpr uint64_t kMiB = 1 << 20;

class BlkTaskTest : public ::testing::Test {
 protected:
  // Does operation after operation of `task`; what they were.
  std::vector<DiskOp::Kind> RunAll(BlkTask& task) {
    std::vector<DiskOp::Kind> kinds;
    absl::StatusOr<bool> more = task.Begin();
    for (; more.ok() && *more; more = task.Continue()) {
      kinds.push_back(task.kind);
      EXPECT_EQ(RunBlocking(task), 0);
    }
    EXPECT_OK(more);
    return kinds;
  }

  // A chain of one buffer, which the driver lets the device write or not.
  Chain Buffer(GuestAddress address, uint64_t size, bool writable) {
    ChainBuilder builder(ram_.view(), /*packed=*/false, /*indirect=*/false);
    Chain chain = ChainBuilder::Start();
    Descriptor descriptor;
    descriptor.address = address.value();
    descriptor.length = static_cast<uint32_t>(size);
    descriptor.flags = writable ? ChainBuilder::kWrite : 0;
    EXPECT_OK(builder.Add(descriptor, chain));
    return chain;
  }
  std::unique_ptr<BlkTask> Task(Chain chain, BlkRequest request,
                                std::vector<BlkSegment> segments = {},
                                bool durable = false) {
    return std::make_unique<BlkTask>(std::move(chain), 0, request,
                                     std::move(segments), file_, durable);
  }

  DiskTestFile image_{2 * kMiB};
  std::shared_ptr<DiskFile> file_ = image_.Open();
  FakeRam ram_;
};

using Kinds = std::vector<DiskOp::Kind>;

TEST_F(BlkTaskTest, AFlushIsOneOperation) {
  BlkTask task(file_);
  EXPECT_EQ(RunAll(task), Kinds({DiskOp::Kind::kFlush}));
}

TEST_F(BlkTaskTest, AnIdNeedsNone) {
  BlkRequest request;
  request.type = BlkType::kGetId;
  auto task = Task(Buffer(ram_.Alloc(20), 20, true), request);
  EXPECT_THAT(task->Begin(), IsOkAndHolds(false));
}

TEST_F(BlkTaskTest, AReadGoesStraightToTheGuest) {
  const std::string pattern = DiskTestPattern(8192, 1);
  image_.Write(4096, pattern);
  const GuestAddress to = ram_.AllocPages(3);
  BlkRequest request;
  request.offset = 4096;
  request.length = 8192;
  auto task = Task(Buffer(to, 8193, true), request);  // and the status
  EXPECT_EQ(RunAll(*task), Kinds({DiskOp::Kind::kRead}));
  EXPECT_FALSE(task->bounced());
  EXPECT_EQ(ram_.String(to, 8192), pattern);
}

TEST_F(BlkTaskTest, AWriteLeavesOutTheHeaderAndIsDurableWhereThatWasPromised) {
  const std::string pattern = DiskTestPattern(4096, 2);
  const GuestAddress from =
      ram_.AllocString(std::string(kBlkHeaderSize, '!') + pattern);
  BlkRequest request;
  request.type = BlkType::kWrite;
  request.offset = 512;
  request.length = 4096;
  for (bool durable : {false, true}) {
    auto task =
        Task(Buffer(from, kBlkHeaderSize + 4096, false), request, {}, durable);
    ASSERT_THAT(task->Begin(), IsOkAndHolds(true));
    EXPECT_EQ(task->durable, durable);
    EXPECT_EQ(RunBlocking(*task), 0);
    EXPECT_THAT(task->Continue(), IsOkAndHolds(false));
    EXPECT_EQ(image_.Read(512, 4096), pattern);
  }
}

TEST_F(BlkTaskTest, WhatChangedTheDiskCanBeFlushedOnce) {
  for (BlkType type : {BlkType::kRead, BlkType::kWrite, BlkType::kFlush,
                       BlkType::kDiscard, BlkType::kWriteZeroes}) {
    for (bool durable : {false, true}) {
      BlkRequest request;
      request.type = type;
      request.length = 512;
      auto task = Task(Buffer(ram_.Alloc(1024), 1024, type == BlkType::kRead),
                       request, {{0, 512, false}}, durable);
      RunAll(*task);
      const bool changes = type != BlkType::kRead && type != BlkType::kFlush;
      ASSERT_EQ(task->BeginFlush(), changes && !durable);
      if (!changes || durable) continue;
      EXPECT_EQ(ram_.LeasedBytes(), 0u);  // all it had was readable
      EXPECT_EQ(task->kind, DiskOp::Kind::kFlush);
      EXPECT_EQ(RunBlocking(*task), 0);
      EXPECT_THAT(task->Continue(), IsOkAndHolds(false));
      EXPECT_FALSE(task->BeginFlush());
    }
  }
}

TEST_F(BlkTaskTest, EachSegmentIsAnOperation) {
  image_.Write(0, DiskTestPattern(65536, 3));
  BlkRequest request;
  request.type = BlkType::kWriteZeroes;
  request.segments = 2;
  const std::vector<BlkSegment> segments = {{0, 4096, false},
                                            {8192, 512, true}};
  auto task = Task(Buffer(ram_.Alloc(64), 64, false), request, segments);
  ASSERT_THAT(task->Begin(), IsOkAndHolds(true));
  EXPECT_EQ(task->op_offset(), 0u);
  EXPECT_FALSE(task->unmap);
  EXPECT_EQ(RunBlocking(*task), 0);
  ASSERT_THAT(task->Continue(), IsOkAndHolds(true));
  EXPECT_EQ(task->op_offset(), 8192u);
  EXPECT_TRUE(task->unmap);
  EXPECT_EQ(RunBlocking(*task), 0);
  EXPECT_THAT(task->Continue(), IsOkAndHolds(false));
  EXPECT_EQ(image_.Read(0, 4096), std::string(4096, '\0'));
  EXPECT_EQ(image_.Read(4096, 4096),
            DiskTestPattern(65536, 3).substr(4096, 4096));
  request.type = BlkType::kDiscard;
  task = Task(Buffer(ram_.Alloc(64), 64, false), request, segments);
  EXPECT_EQ(RunAll(*task),
            Kinds({DiskOp::Kind::kDiscard, DiskOp::Kind::kDiscard}));
}

TEST_F(BlkTaskTest, LeasesLastAsLongAsTheTask) {
  const GuestAddress to = ram_.AllocPages(1);
  BlkRequest request;
  request.length = 512;
  auto task = Task(Buffer(to, 513, true), request);
  EXPECT_GT(ram_.LeasedBytes(), 0u);
  RunAll(*task);
  EXPECT_GT(ram_.LeasedBytes(), 0u);
  task.reset();
  EXPECT_EQ(ram_.LeasedBytes(), 0u);
}

// With O_DIRECT, buffers that the file cannot have go through one of ours, a
// part at a time.
TEST_F(BlkTaskTest, OddBuffersBounceWithDirectIo) {
  DiskFileOptions options;
  options.path = image_.path();
  options.direct = true;
  file_.reset();  // its lock
  absl::StatusOr<std::shared_ptr<DiskFile>> direct = DiskFile::Open(options);
  if (!direct.ok()) {
    GTEST_SKIP() << "not applicable: " << direct.status().message();
  }
  file_ = *std::move(direct);
  if (file_->memory_alignment() == 1) {
    GTEST_SKIP() << "not applicable: this file system takes any buffer";
  }
  const uint64_t size = BlkTask::kBounceSize + 4096;
  const std::string pattern = DiskTestPattern(size, 4);
  const GuestAddress from =
      ram_.AllocString(std::string(kBlkHeaderSize + 1, '!') + pattern);
  BlkRequest request;
  request.type = BlkType::kWrite;
  request.length = size;
  auto write =
      Task(Buffer(*from.Plus(1), kBlkHeaderSize + size, false), request);
  EXPECT_EQ(RunAll(*write),
            Kinds({DiskOp::Kind::kWrite, DiskOp::Kind::kWrite}));
  EXPECT_TRUE(write->bounced());
  EXPECT_EQ(ram_.LeasedBytes(), 0u);  // all was copied
  EXPECT_EQ(image_.Read(0, size), pattern);
  request.type = BlkType::kRead;
  const GuestAddress to = *ram_.AllocPages(66).Plus(1);
  auto read = Task(Buffer(to, size + 1, true), request);
  EXPECT_EQ(RunAll(*read), Kinds({DiskOp::Kind::kRead, DiskOp::Kind::kRead}));
  EXPECT_EQ(ram_.String(to, size), pattern);
}

}  // namespace
}  // namespace cloister::devices::virtio
