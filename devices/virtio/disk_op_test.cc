// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_op.h"

#include <limits.h>

#include <cerrno>
#include <string>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/disk_test_file.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct iovec Buffer(std::string& bytes, size_t from, size_t size) {
  return {bytes.data() + from, size};
}

class AdvanceTest : public ::testing::Test {
 protected:
  AdvanceTest() : bytes_(100, 'x') {
    op_.length = 100;
    op_.buffers = {Buffer(bytes_, 0, 10), Buffer(bytes_, 10, 60),
                   Buffer(bytes_, 70, 30)};
  }
  void ExpectRest(size_t offset) {
    DiskBuffers rest = RemainingBuffers(op_);
    ASSERT_GT(rest.count, 0);
    EXPECT_EQ(rest.data[0].iov_base, bytes_.data() + offset);
    size_t size = 0;
    for (int i = 0; i < rest.count; ++i) size += rest.data[i].iov_len;
    EXPECT_EQ(size, 100 - offset);
    EXPECT_EQ(op_.transferred, offset);
  }

  std::string bytes_;
  DiskOp op_;
};

TEST_F(AdvanceTest, AllAtOnce) {
  DiskProgress progress = AdvanceTransfer(op_, 100);
  EXPECT_TRUE(progress.done);
  EXPECT_EQ(progress.error, 0);
  EXPECT_EQ(RemainingBuffers(op_).count, 0);
}

TEST_F(AdvanceTest, GoesOnWhereAShortTransferStopped) {
  for (auto [moved, offset] : {std::pair{5, 5}, {5, 10}, {59, 69}, {2, 71}}) {
    EXPECT_FALSE(AdvanceTransfer(op_, moved).done);
    ExpectRest(offset);
  }
  EXPECT_TRUE(AdvanceTransfer(op_, 29).done);
}

TEST_F(AdvanceTest, InterruptionsAreTriedAgain) {
  for (int i = 0; i < 500; ++i) {
    EXPECT_FALSE(AdvanceTransfer(op_, -EINTR).done);
    EXPECT_FALSE(AdvanceTransfer(op_, -EAGAIN).done);
    EXPECT_FALSE(AdvanceTransfer(op_, i == 250 ? 1 : -EINTR).done);
    if (i == 250) break;
  }
  ExpectRest(1);
}

TEST_F(AdvanceTest, ButNotForEver) {
  int rounds = 0;
  DiskProgress progress;
  while (!progress.done) {
    progress = AdvanceTransfer(op_, -EINTR);
    ASSERT_LE(++rounds, 1000);
  }
  EXPECT_EQ(progress.error, EIO);
}

TEST_F(AdvanceTest, ErrorsEndIt) {
  for (int error : {EIO, ENOSPC, EBADF, ENXIO}) {
    DiskProgress progress = AdvanceTransfer(op_, -error);
    EXPECT_TRUE(progress.done);
    EXPECT_EQ(progress.error, error);
  }
}

TEST_F(AdvanceTest, TheEndOfTheFileIsAnError) {
  EXPECT_FALSE(AdvanceTransfer(op_, 50).done);
  DiskProgress progress = AdvanceTransfer(op_, 0);
  EXPECT_TRUE(progress.done);
  EXPECT_EQ(progress.error, EIO);
}

TEST_F(AdvanceTest, MoreThanAskedIsAnError) {
  DiskProgress progress = AdvanceTransfer(op_, 101);
  EXPECT_TRUE(progress.done);
  EXPECT_EQ(progress.error, EIO);
}

DiskOp Op(DiskOp::Kind kind, DiskFile& file, uint64_t offset,
          std::string* bytes) {
  DiskOp op;
  op.kind = kind;
  op.file = &file;
  op.offset = offset;
  if (bytes != nullptr) {
    op.length = bytes->size();
    op.buffers = {Buffer(*bytes, 0, bytes->size())};
  }
  return op;
}

TEST(RunBlockingTest, WritesAndReads) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  std::string out = DiskTestPattern(8192, 1);
  std::string in(8192, '\0');
  for (bool durable : {false, true}) {
    DiskOp write = Op(DiskOp::Kind::kWrite, *file, 4096, &out);
    write.durable = durable;
    EXPECT_EQ(RunBlocking(write), 0);
  }
  DiskOp read = Op(DiskOp::Kind::kRead, *file, 4096, &in);
  EXPECT_EQ(RunBlocking(read), 0);
  EXPECT_EQ(in, out);
  EXPECT_EQ(image.Read(4096, 8192), out);
}

TEST(RunBlockingTest, TakesMoreBuffersThanOneSystemCall) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  std::string out = DiskTestPattern(kMiB, 2);
  DiskOp write = Op(DiskOp::Kind::kWrite, *file, 0, nullptr);
  write.length = kMiB;
  for (size_t at = 0; at < kMiB; at += 256) {
    write.buffers.push_back(Buffer(out, at, 256));
  }
  ASSERT_GT(write.buffers.size(), size_t{IOV_MAX});
  EXPECT_EQ(RunBlocking(write), 0);
  EXPECT_EQ(image.Read(0, kMiB), out);
}

TEST(RemainingBuffersTest, TakesWholeBuffersUpToOneAttempt) {
  DiskOp op;
  op.buffers = {{nullptr, kDiskAttempt - kMiB},
                {nullptr, kMiB},
                {nullptr, 512},
                {nullptr, kDiskAttempt}};
  EXPECT_EQ(RemainingBuffers(op).count, 2);
  op.next_buffer = 2;
  EXPECT_EQ(RemainingBuffers(op).count, 1);
}

TEST(RemainingBuffersTest, TakesAPartOfOneThatIsLarger) {
  uint8_t byte = 0;
  DiskOp op;
  op.length = 2 * kDiskAttempt + 512;
  op.buffers = {{&byte, op.length}};
  for (int attempt = 0; attempt < 2; ++attempt) {
    const DiskBuffers rest = RemainingBuffers(op);
    ASSERT_EQ(rest.count, 1);
    EXPECT_EQ(rest.data->iov_len, kDiskAttempt);
    EXPECT_EQ(rest.data->iov_base, op.buffers[0].iov_base);
    EXPECT_FALSE(AdvanceTransfer(op, kDiskAttempt).done);
  }
  EXPECT_EQ(RemainingBuffers(op).data->iov_len, 512u);
  EXPECT_TRUE(AdvanceTransfer(op, 512).done);
}

TEST(RunBlockingTest, MovesMoreThanOneAttempt) {
  DiskTestFile image(3 * kDiskAttempt);
  std::shared_ptr<DiskFile> file = image.Open();
  std::string out = DiskTestPattern(3 * kDiskAttempt - 512, 4);
  DiskOp write = Op(DiskOp::Kind::kWrite, *file, 512, &out);
  EXPECT_EQ(RunBlocking(write), 0);
  EXPECT_EQ(image.Read(512, out.size()), out);
}

TEST(RunBlockingTest, GivesUpBetweenAttempts) {
  DiskTestFile image(2 * kDiskAttempt);
  std::shared_ptr<DiskFile> file = image.Open();
  std::string out = DiskTestPattern(2 * kDiskAttempt, 5);
  DiskOp write = Op(DiskOp::Kind::kWrite, *file, 0, &out);
  EXPECT_EQ(RunBlocking(write, [] { return true; }), ECANCELED);
  EXPECT_EQ(image.Read(0, kDiskAttempt), out.substr(0, kDiskAttempt));
  EXPECT_EQ(image.Read(kDiskAttempt, kDiskAttempt),
            std::string(kDiskAttempt, '\0'));
  // What takes one attempt is done.
  std::string little(512, 'x');
  DiskOp read = Op(DiskOp::Kind::kRead, *file, 0, &little);
  EXPECT_EQ(RunBlocking(read, [] { return true; }), 0);
  EXPECT_EQ(little, out.substr(0, 512));
}

TEST(RunBlockingTest, ReportsErrors) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open(/*read_only=*/true);
  std::string bytes(4096, 'x');
  DiskOp write = Op(DiskOp::Kind::kWrite, *file, 0, &bytes);
  EXPECT_EQ(RunBlocking(write), EBADF);
  image.Resize(6144);
  DiskOp read = Op(DiskOp::Kind::kRead, *file, 4096, &bytes);
  EXPECT_EQ(RunBlocking(read), EIO);
}

TEST(RunFromCacheTest, DoesAllOrNothing) {
  DiskTestFile image(DiskTestPattern(8192, 6));
  std::shared_ptr<DiskFile> file = image.Open();
  std::string bytes(8192, 'x');
  DiskOp read = Op(DiskOp::Kind::kRead, *file, 0, &bytes);
  EXPECT_EQ(RunFromCache(read), 0);
  EXPECT_EQ(bytes, DiskTestPattern(8192, 6));
  // What the file no longer has, and what cannot be written to, is left to who
  // can wait.
  image.Resize(4096);
  DiskOp cut = Op(DiskOp::Kind::kRead, *file, 0, &bytes);
  EXPECT_EQ(RunFromCache(cut), std::nullopt);
  EXPECT_EQ(cut.transferred, 0u);
  DiskOp nowhere = Op(DiskOp::Kind::kRead, *file, 0, &bytes);
  nowhere.length = 4096;
  nowhere.buffers = {{nullptr, 4096}};
  EXPECT_EQ(RunFromCache(nowhere), std::nullopt);
}

TEST(RunFromCacheTest, DoesTheRestOfAReadThatBegan) {
  DiskTestFile image(DiskTestPattern(8192, 7));
  std::shared_ptr<DiskFile> file = image.Open();
  std::string bytes(8192, 'x');
  DiskOp read = Op(DiskOp::Kind::kRead, *file, 0, &bytes);
  EXPECT_FALSE(AdvanceTransfer(read, 512).done);
  EXPECT_EQ(RunFromCache(read), 0);
  EXPECT_EQ(bytes.substr(512), DiskTestPattern(8192, 7).substr(512));
}

TEST(RunFromCacheTest, ReadsFromFileSystemsThatCannotTell) {
  // sysfs knows no RWF_NOWAIT, and says that its files have a page.
  DiskFileOptions options;
  options.path = "/sys/kernel/mm/transparent_hugepage/enabled";
  options.read_only = true;
  absl::StatusOr<std::shared_ptr<DiskFile>> file = DiskFile::Open(options);
  if (!file.ok()) GTEST_SKIP() << "the host's sysfs: " << file.status();
  std::string bytes(8, '!');
  DiskOp read = Op(DiskOp::Kind::kRead, **file, 0, &bytes);
  EXPECT_EQ(RunFromCache(read), 0);
  EXPECT_EQ(bytes.find('!'), std::string::npos);
}

TEST(RunBlockingTest, AWriteDoesNotUndoACut) {
  DiskTestFile image(kMiB);
  std::shared_ptr<DiskFile> file = image.Open();
  image.Resize(4096);
  std::string bytes(4096, 'x');
  DiskOp write = Op(DiskOp::Kind::kWrite, *file, 8192, &bytes);
  EXPECT_EQ(RunBlocking(write), EIO);
  EXPECT_EQ(image.Read(0, kMiB).size(), 4096u);
}

TEST(RunBlockingTest, FlushesDiscardsAndZeroes) {
  DiskTestFile image(DiskTestPattern(kMiB, 3));
  std::shared_ptr<DiskFile> file = image.Open();
  DiskOp flush = Op(DiskOp::Kind::kFlush, *file, 0, nullptr);
  EXPECT_EQ(RunBlocking(flush), 0);
  for (bool durable : {false, true}) {
    DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, *file, 4096, nullptr);
    zero.length = 4096;
    zero.durable = durable;
    EXPECT_EQ(RunBlocking(zero), 0);
    EXPECT_EQ(image.Read(4096, 4096), std::string(4096, '\0'));
    DiskOp discard = Op(DiskOp::Kind::kDiscard, *file, 8192, nullptr);
    discard.length = 4096;
    discard.durable = durable;
    EXPECT_EQ(RunBlocking(discard), 0);
  }
  file->FinishFlush(ENOSPC);
  DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, *file, 4096, nullptr);
  zero.length = 4096;
  EXPECT_EQ(RunBlocking(zero), 0);
  zero.durable = true;
  EXPECT_EQ(RunBlocking(zero), ENOSPC);
}

}  // namespace
}  // namespace cloister::devices::virtio
