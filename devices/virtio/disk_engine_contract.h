// SPDX-License-Identifier: Apache-2.0
//
// What every DiskEngine does: cases for the test of each, which says what makes
// one with INSTANTIATE_TEST_SUITE_P(name, DiskEngineTest, ...). In one
// translation unit of a program.
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_CONTRACT_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_CONTRACT_H_

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/event_loop.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/disk_engine.h"
#include "cloister/devices/virtio/disk_file.h"
#include "cloister/devices/virtio/disk_op.h"
#include "cloister/devices/virtio/disk_op_recorder.h"
#include "cloister/devices/virtio/disk_test_file.h"
#include "cloister/devices/virtio/worker.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {

inline constexpr uint64_t kDiskMiB = 1 << 20;

// The parameter makes the engine that is tested.
using DiskEngineMaker = absl::StatusOr<std::unique_ptr<DiskEngine>> (*)(
    base::EventLoop& loop, DiskEngine::Client& client,
    std::function<void()> on_thread_start);

class DiskEngineTest : public ::testing::TestWithParam<DiskEngineMaker> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(worker_, Worker::Create("engine"));
    auto engine = GetParam()(worker_->loop(), recorder_, nullptr);
    if (absl::IsUnimplemented(engine.status()) ||
        absl::IsPermissionDenied(engine.status())) {
      GTEST_SKIP() << "this host has no such engine: " << engine.status();
    }
    ASSERT_OK(engine);
    engine_ = *std::move(engine);
  }
  void TearDown() override {
    worker_->Stop();
    engine_.reset();
  }

  // Runs on the engine's thread.
  void Submit(const std::vector<DiskOp*>& ops) {
    worker_->loop().Post([this, ops] {
      for (DiskOp* op : ops) engine_->Submit(op);
      engine_->Commit();
    });
  }
  int Run(DiskOp& op) {
    Submit({&op});
    return recorder_.Wait(&op);
  }
  DiskOp Op(DiskOp::Kind kind, uint64_t offset, uint64_t length) {
    DiskOp op;
    op.kind = kind;
    op.file = file_.get();
    op.offset = offset;
    op.length = length;
    return op;
  }
  DiskOp Op(DiskOp::Kind kind, uint64_t offset, std::string& bytes) {
    DiskOp op = Op(kind, offset, bytes.size());
    op.buffers = {{bytes.data(), bytes.size()}};
    return op;
  }

  DiskTestFile image_{8 << 20};
  std::shared_ptr<DiskFile> file_ = image_.Open();
  DiskOpRecorder recorder_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<DiskEngine> engine_;
};

TEST_P(DiskEngineTest, WritesFlushesAndReads) {
  std::string out = DiskTestPattern(65536, 1);
  for (bool durable : {false, true}) {
    DiskOp write = Op(DiskOp::Kind::kWrite, 512, out);
    write.durable = durable;
    EXPECT_EQ(Run(write), 0);
  }
  EXPECT_EQ(image_.Read(512, 65536), out);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  EXPECT_EQ(Run(flush), 0);
  std::string in(65536, '\0');
  DiskOp read = Op(DiskOp::Kind::kRead, 512, in);
  EXPECT_EQ(Run(read), 0);
  EXPECT_EQ(in, out);
  EXPECT_GE(recorder_.WaitSettled(), 1);
}

TEST_P(DiskEngineTest, TakesMoreBuffersThanOneSystemCall) {
  std::string out = DiskTestPattern(kDiskMiB, 2);
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, kDiskMiB);
  for (size_t at = 0; at < kDiskMiB; at += 256) {
    write.buffers.push_back({out.data() + at, 256});
  }
  EXPECT_EQ(Run(write), 0);
  EXPECT_EQ(image_.Read(0, kDiskMiB), out);
}

TEST_P(DiskEngineTest, ManyAtATime) {
  constexpr int kOps = 1000;  // more than a ring holds
  std::string out = DiskTestPattern(kOps * 4096, 3);
  std::vector<DiskOp> writes(kOps);
  std::vector<DiskOp*> pointers;
  for (int i = 0; i < kOps; ++i) {
    writes[i] = Op(DiskOp::Kind::kWrite, i * 4096, 4096);
    writes[i].buffers = {{out.data() + i * 4096, 4096}};
    pointers.push_back(&writes[i]);
  }
  Submit(pointers);
  for (DiskOp& write : writes) ASSERT_EQ(recorder_.Wait(&write), 0);
  EXPECT_EQ(image_.Read(0, out.size()), out);
}

TEST_P(DiskEngineTest, DiscardsAndZeroes) {
  image_.Write(0, DiskTestPattern(65536, 4));
  DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, 4096, 8192);
  EXPECT_EQ(Run(zero), 0);
  EXPECT_EQ(image_.Read(4096, 8192), std::string(8192, '\0'));
  DiskOp unmap = Op(DiskOp::Kind::kWriteZeroes, 16384, 4096);
  unmap.unmap = unmap.durable = true;
  EXPECT_EQ(Run(unmap), 0);
  EXPECT_EQ(image_.Read(16384, 4096), std::string(4096, '\0'));
  DiskOp discard = Op(DiskOp::Kind::kDiscard, 32768, 4096);
  EXPECT_EQ(Run(discard), 0);
  EXPECT_EQ(image_.Read(36864, 512),
            DiskTestPattern(65536, 4).substr(36864, 512));
}

TEST_P(DiskEngineTest, GivesUpWhatHasNotBegun) {
  std::promise<void> open;
  std::shared_future<void> gate = open.get_future().share();
  auto engine = GetParam()(worker_->loop(), recorder_, [gate] { gate.wait(); });
  ASSERT_OK(engine);
  const std::string content = DiskTestPattern(65536, 5);
  image_.Write(0, content);
  std::string in(4096, '!');
  std::string out(4096, '?');
  DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, 0, 4096);
  DiskOp discard = Op(DiskOp::Kind::kDiscard, 4096, 4096);
  DiskOp read = Op(DiskOp::Kind::kRead, 8192, in);
  DiskOp write = Op(DiskOp::Kind::kWrite, 12288, out);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  DiskOp kept_zero = Op(DiskOp::Kind::kWriteZeroes, 16384, 4096);
  DiskOp kept_write = Op(DiskOp::Kind::kWrite, 20480, out);
  kept_zero.keep = kept_write.keep = true;
  const std::vector<DiskOp*> given_up = {&zero, &discard, &read, &write,
                                         &flush};
  worker_->loop().Post([&] {
    for (DiskOp* op : given_up) (*engine)->Submit(op);
    (*engine)->Submit(&kept_zero);
    (*engine)->Submit(&kept_write);
    (*engine)->Cancel();
    (*engine)->Cancel();  // of nothing more
    (*engine)->Commit();
  });
  for (DiskOp* op : given_up) EXPECT_EQ(recorder_.Wait(op), ECANCELED);
  open.set_value();
  EXPECT_EQ(recorder_.Wait(&kept_zero), 0);
  EXPECT_EQ(recorder_.Wait(&kept_write), 0);
  EXPECT_EQ(image_.Read(0, 16384), content.substr(0, 16384));
  EXPECT_EQ(image_.Read(16384, 4096), std::string(4096, '\0'));
  EXPECT_EQ(image_.Read(20480, 4096), out);
  EXPECT_EQ(in, std::string(4096, '!'));
  worker_->Stop();  // before the engine goes
}

// As a guest can have it: one small buffer named again and again, for so long a
// transfer that no engine is done with it before it hears of the cancel.
TEST_P(DiskEngineTest, ATransferThatIsGivenUpEndsAfterItsAttempt) {
  constexpr uint64_t kBuffers = 16 << 10;
  image_.Resize(kBuffers * kDiskMiB);
  std::string buffer(kDiskMiB, '!');
  DiskOp read = Op(DiskOp::Kind::kRead, 0, kBuffers * kDiskMiB);
  read.buffers.assign(kBuffers, {buffer.data(), buffer.size()});
  worker_->loop().Post([&] {
    engine_->Submit(&read);
    engine_->Commit();
    engine_->Cancel();
  });
  EXPECT_EQ(recorder_.Wait(&read), ECANCELED);
  EXPECT_LT(read.transferred, read.length);
  // What is submitted later is not given up.
  DiskOp next = Op(DiskOp::Kind::kRead, 0, buffer);
  EXPECT_EQ(Run(next), 0);
}

TEST_P(DiskEngineTest, ATransferThatIsKeptGoesOn) {
  std::string out = DiskTestPattern(2 * kDiskAttempt, 8);
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, out);
  write.keep = true;
  worker_->loop().Post([&] {
    engine_->Submit(&write);
    engine_->Commit();
    engine_->Cancel();
  });
  EXPECT_EQ(recorder_.Wait(&write), 0);
  EXPECT_EQ(image_.Read(0, out.size()), out);
}

TEST_P(DiskEngineTest, TellsNobodyOfAnythingAfterItsEnd) {
  std::string bytes(4096, 'x');
  std::vector<DiskOp> reads(1000, Op(DiskOp::Kind::kRead, 0, bytes));
  std::promise<void> over;
  worker_->loop().Post([&] {
    for (DiskOp& read : reads) engine_->Submit(&read);
    engine_->Cancel();
    engine_.reset();
    worker_->loop().Post([&] { over.set_value(); });
  });
  over.get_future().wait();
  EXPECT_EQ(recorder_.settled(), 0);
}

TEST_P(DiskEngineTest, MovesMoreThanOneAttempt) {
  std::string out = DiskTestPattern(2 * kDiskAttempt, 7);
  const uint64_t first = kDiskAttempt + 512;
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, out.size());
  write.buffers = {{out.data(), first}};
  for (uint64_t at = first; at < out.size(); at += 512) {
    write.buffers.push_back({out.data() + at, 512});
  }
  EXPECT_EQ(Run(write), 0);
  EXPECT_EQ(image_.Read(0, out.size()), out);
  std::string in(out.size(), '!');
  DiskOp read = Op(DiskOp::Kind::kRead, 0, in);
  EXPECT_EQ(Run(read), 0);
  EXPECT_EQ(in, out);
}

TEST_P(DiskEngineTest, ReportsErrorsOfTheHost) {
  file_.reset();
  file_ = image_.Open(/*read_only=*/true);
  std::string bytes(4096, 'x');
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, bytes);
  EXPECT_EQ(Run(write), EBADF);
  DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, 0, 4096);
  EXPECT_EQ(Run(zero), EBADF);
}

TEST_P(DiskEngineTest, AShrunkFileIsAnErrorAndStaysShrunk) {
  image_.Resize(10 * 512);
  std::string bytes(4096, 'x');
  DiskOp outside = Op(DiskOp::Kind::kRead, 65536, bytes);
  EXPECT_EQ(Run(outside), EIO);
  DiskOp across = Op(DiskOp::Kind::kRead, 4096, bytes);
  EXPECT_EQ(Run(across), EIO);
  DiskOp write = Op(DiskOp::Kind::kWrite, 4096, bytes);
  EXPECT_EQ(Run(write), EIO);
  // Several at once, or durable, may take another path.
  std::string more(4096, 'y');
  DiskOp durable = Op(DiskOp::Kind::kWrite, 4096, more);
  durable.durable = true;
  Submit({&outside, &write, &durable});
  for (DiskOp* op : {&outside, &write, &durable}) {
    EXPECT_EQ(recorder_.Wait(op), EIO);
  }
  EXPECT_EQ(Run(durable), EIO);
  EXPECT_EQ(image_.Read(0, kDiskMiB).size(), 5120u);
  std::string head(512, 'x');
  DiskOp inside = Op(DiskOp::Kind::kRead, 0, head);
  EXPECT_EQ(Run(inside), 0);
  EXPECT_EQ(head, std::string(512, '\0'));
}

TEST_P(DiskEngineTest, AFlushThatFailedStaysFailed) {
  file_->FinishFlush(ENOSPC);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  EXPECT_EQ(Run(flush), ENOSPC);
  // A durable write is one, too.
  std::string bytes(4096, 'x');
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, bytes);
  EXPECT_EQ(Run(write), 0);
  DiskOp durable = Op(DiskOp::Kind::kWrite, 0, bytes);
  durable.durable = true;
  EXPECT_EQ(Run(durable), ENOSPC);
}

// Its error may be that of an earlier write, which the kernel tells once.
TEST_P(DiskEngineTest, ADurableWriteThatFailedIsAFlushThatFailed) {
  file_.reset();
  file_ = image_.Open(/*read_only=*/true);
  std::string bytes(4096, 'x');
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, bytes);
  EXPECT_EQ(Run(write), EBADF);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  EXPECT_EQ(Run(flush), 0);
  DiskOp durable = Op(DiskOp::Kind::kWrite, 0, bytes);
  durable.durable = true;
  EXPECT_EQ(Run(durable), EBADF);
  EXPECT_EQ(Run(flush), EBADF);
}

TEST_P(DiskEngineTest, CallbacksMaySubmit) {
  std::string out = DiskTestPattern(4096, 5);
  std::string in(4096, '\0');
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, out);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  DiskOp read = Op(DiskOp::Kind::kRead, 0, in);
  recorder_.Then(&write, &flush, engine_.get());
  recorder_.Then(&flush, &read, engine_.get());
  Submit({&write});
  EXPECT_EQ(recorder_.Wait(&read), 0);
  EXPECT_EQ(in, out);
}

TEST_P(DiskEngineTest, CallbacksOfSlowOperationsMaySubmitToo) {
  DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, 0, 4096);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  recorder_.Then(&zero, &flush, engine_.get());
  Submit({&zero});
  EXPECT_EQ(recorder_.Wait(&flush), 0);
}

// And for what is kept, begun or not.
TEST_P(DiskEngineTest, ItsEndWaitsForWhatIsInFlight) {
  constexpr uint64_t kOps = 1000;  // more than a ring holds
  std::string out = DiskTestPattern(kOps * 4096, 6);
  std::vector<DiskOp> writes(kOps);
  std::promise<void> gone;
  worker_->loop().Post([&] {
    for (uint64_t i = 0; i < kOps; ++i) {
      writes[i] = Op(DiskOp::Kind::kWrite, i * 4096, 4096);
      writes[i].buffers = {{out.data() + i * 4096, 4096}};
      writes[i].keep = i % 2 == 0;
      engine_->Submit(&writes[i]);
    }
    engine_->Commit();
    engine_.reset();
    gone.set_value();
  });
  gone.get_future().wait();
  // Nothing reads the buffers any more: what was written is what they held.
  const std::string before = out;
  std::fill(out.begin(), out.end(), '!');
  const std::string found = image_.Read(0, before.size());
  const std::string zeros(4096, '\0');
  for (uint64_t i = 0; i < kOps; ++i) {
    const std::string part = found.substr(i * 4096, 4096);
    if (i % 2 == 0 || part != zeros) {
      EXPECT_EQ(part, before.substr(i * 4096, 4096)) << i;
    }
  }
}

// Had it run them all, this would take minutes.
TEST_P(DiskEngineTest, ItsEndGivesUpWhatHasNotBegun) {
  constexpr uint64_t kBuffers = 1 << 10;
  constexpr int kOps = 400;  // more than a ring holds
  image_.Resize(kBuffers * kDiskMiB);
  std::string buffer(kDiskMiB, '!');
  std::vector<DiskOp> reads(kOps);
  std::promise<void> gone;
  for (DiskOp& read : reads) {
    read = Op(DiskOp::Kind::kRead, 0, kBuffers * kDiskMiB);
    read.buffers.assign(kBuffers, {buffer.data(), buffer.size()});
  }
  worker_->loop().Post([&] {
    for (DiskOp& read : reads) engine_->Submit(&read);
    engine_->Commit();
    engine_.reset();
    gone.set_value();
  });
  gone.get_future().wait();
  EXPECT_EQ(reads.back().transferred, 0u);
}

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_ENGINE_CONTRACT_H_
