// SPDX-License-Identifier: Apache-2.0
//
// Both engines against one contract.
#include "cloister/devices/virtio/disk_engine_factory.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <future>
#include <map>
#include <string>
#include <vector>

#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/disk_test_file.h"
#include "cloister/devices/virtio/disk_thread_engine.h"
#include "cloister/devices/virtio/disk_uring_engine.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Keeps what became of each operation. Thread-safe.
class Recorder : public DiskEngine::Client {
 public:
  void OnDiskOpDone(DiskOp* op, int error) override {
    DiskOp* next = nullptr;
    {
      base::MutexLock lock(&mutex_);
      done_[op] = error;
      auto then = then_.find(op);
      if (then != then_.end()) next = then->second;
      changed_.SignalAll();
    }
    if (next != nullptr) engine_->Submit(next);
  }
  void OnDiskOpsSettled() override {
    base::MutexLock lock(&mutex_);
    ++settled_;
    changed_.SignalAll();
  }

  // Submits `next` from the callback for `op`.
  void Then(DiskOp* op, DiskOp* next, DiskEngine* engine) {
    base::MutexLock lock(&mutex_);
    then_[op] = next;
    engine_ = engine;
  }
  int Wait(DiskOp* op) {
    base::MutexLock lock(&mutex_);
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (done_.count(op) == 0) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return -1;
    }
    const int error = done_[op];
    done_.erase(op);  // the test may reuse it
    return error;
  }
  int WaitSettled() {
    base::MutexLock lock(&mutex_);
    while (settled_ == 0) changed_.Wait(&mutex_);
    return settled_;
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  std::map<DiskOp*, int> done_ ABSL_GUARDED_BY(mutex_);
  std::map<DiskOp*, DiskOp*> then_ ABSL_GUARDED_BY(mutex_);
  DiskEngine* engine_ = nullptr;
  int settled_ ABSL_GUARDED_BY(mutex_) = 0;
};

class DiskEngineTest : public ::testing::TestWithParam<DiskEngineKind> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(worker_, Worker::Create("engine"));
    auto engine =
        CreateDiskEngine({GetParam(), nullptr}, worker_->loop(), recorder_);
    if (!engine.ok() && GetParam() == DiskEngineKind::kIoUring) {
      GTEST_SKIP() << "this host has no io_uring: " << engine.status();
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

  DiskTestFile image_{8 * kMiB};
  std::shared_ptr<DiskFile> file_ = image_.Open();
  Recorder recorder_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<DiskEngine> engine_;
};

TEST_P(DiskEngineTest, SaysWhatItIs) {
  EXPECT_EQ(engine_->name(),
            GetParam() == DiskEngineKind::kThreads ? "threads" : "io_uring");
}

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
  std::string out = DiskTestPattern(kMiB, 2);
  DiskOp write = Op(DiskOp::Kind::kWrite, 0, kMiB);
  for (size_t at = 0; at < kMiB; at += 256) {
    write.buffers.push_back({out.data() + at, 256});
  }
  EXPECT_EQ(Run(write), 0);
  EXPECT_EQ(image_.Read(0, kMiB), out);
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

TEST_P(DiskEngineTest, GivesUpSlowOperationsThatHaveNotBegun) {
  std::promise<void> open;
  std::shared_future<void> gate = open.get_future().share();
  auto engine = CreateDiskEngine({GetParam(), [gate] { gate.wait(); }},
                                 worker_->loop(), recorder_);
  ASSERT_OK(engine);
  image_.Write(0, DiskTestPattern(65536, 5));
  DiskOp zero = Op(DiskOp::Kind::kWriteZeroes, 0, 4096);
  DiskOp discard = Op(DiskOp::Kind::kDiscard, 4096, 4096);
  std::string bytes(4096, '!');
  DiskOp read = Op(DiskOp::Kind::kRead, 8192, bytes);
  worker_->loop().Post([&] {
    for (DiskOp* op : {&zero, &discard, &read}) (*engine)->Submit(op);
    (*engine)->Commit();
    (*engine)->CancelSlow();
  });
  EXPECT_EQ(recorder_.Wait(&zero), ECANCELED);
  EXPECT_EQ(recorder_.Wait(&discard), ECANCELED);
  open.set_value();
  EXPECT_EQ(recorder_.Wait(&read), 0);
  EXPECT_EQ(image_.Read(0, 65536), DiskTestPattern(65536, 5));
  EXPECT_EQ(bytes, DiskTestPattern(65536, 5).substr(8192, 4096));
  worker_->Stop();  // before the engine goes
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
  EXPECT_EQ(image_.Read(0, kMiB).size(), 5120u);
  std::string head(512, 'x');
  DiskOp inside = Op(DiskOp::Kind::kRead, 0, head);
  EXPECT_EQ(Run(inside), 0);
  EXPECT_EQ(head, std::string(512, '\0'));
}

TEST_P(DiskEngineTest, AFlushThatFailedStaysFailed) {
  file_->FinishFlush(ENOSPC);
  DiskOp flush = Op(DiskOp::Kind::kFlush, 0, 0);
  EXPECT_EQ(Run(flush), ENOSPC);
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

TEST_P(DiskEngineTest, ItsEndWaitsForWhatIsInFlight) {
  constexpr int kOps = 64;
  std::string out = DiskTestPattern(kOps * 65536, 6);
  std::vector<DiskOp> writes(kOps);
  std::promise<void> gone;
  worker_->loop().Post([&] {
    for (int i = 0; i < kOps; ++i) {
      writes[i] = Op(DiskOp::Kind::kWrite, i * 65536, 65536);
      writes[i].buffers = {{out.data() + i * 65536, 65536}};
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
  for (int i = 0; i < kOps; ++i) {
    EXPECT_EQ(found.substr(i * 65536, 65536), before.substr(i * 65536, 65536));
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, DiskEngineTest,
                         ::testing::Values(DiskEngineKind::kIoUring,
                                           DiskEngineKind::kThreads),
                         [](const auto& info) {
                           return info.param == DiskEngineKind::kThreads
                                      ? "threads"
                                      : "io_uring";
                         });

// Makes io_uring_setup fail with `error` in this process, for good.
void ForbidIoUring(int error) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K,
               SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {std::size(program), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    _exit(99);
  }
}

// The name of the engine that a process without io_uring gets; its exit code
// says which.
int EngineWithoutIoUring(DiskEngineKind kind, int error) {
  const pid_t child = fork();
  if (child == 0) {
    ForbidIoUring(error);
    auto loop = base::EventLoop::Create();
    Recorder recorder;
    auto engine = CreateDiskEngine({kind, nullptr}, **loop, recorder);
    if (!engine.ok()) _exit(3);
    _exit((*engine)->name() == "threads" ? 1 : 2);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(CreateDiskEngineTest, FallsBackWhereIoUringIsForbiddenOrMissing) {
  EXPECT_EQ(EngineWithoutIoUring(DiskEngineKind::kAuto, ENOSYS), 1);
  EXPECT_EQ(EngineWithoutIoUring(DiskEngineKind::kAuto, EPERM), 1);
  EXPECT_EQ(EngineWithoutIoUring(DiskEngineKind::kAuto, ENOMEM), 1);
  EXPECT_EQ(EngineWithoutIoUring(DiskEngineKind::kIoUring, ENOSYS), 3);
  EXPECT_EQ(EngineWithoutIoUring(DiskEngineKind::kAuto, EINVAL), 3);
}

TEST(CreateDiskEngineTest, RunsTheHookOnEachThread) {
  std::atomic<int> started{0};
  ASSERT_OK_AND_ASSIGN(auto loop, base::EventLoop::Create());
  Recorder recorder;
  ASSERT_OK_AND_ASSIGN(auto engine, CreateDiskEngine({DiskEngineKind::kThreads,
                                                      [&] { ++started; }},
                                                     *loop, recorder));
  engine.reset();
  EXPECT_EQ(started, static_cast<int>(DiskThreadEngine::kThreads));
}

}  // namespace
}  // namespace cloister::devices::virtio
