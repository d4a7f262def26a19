// SPDX-License-Identifier: Apache-2.0
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

#include "cloister/base/event_loop.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/disk_op_recorder.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

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
    DiskOpRecorder recorder;
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

TEST(CreateDiskEngineTest, HandsOnTheHookOfThreads) {
  std::atomic<int> started{0};
  ASSERT_OK_AND_ASSIGN(auto loop, base::EventLoop::Create());
  DiskOpRecorder recorder;
  ASSERT_OK_AND_ASSIGN(auto engine, CreateDiskEngine({DiskEngineKind::kThreads,
                                                      [&] { ++started; }},
                                                     *loop, recorder));
  engine.reset();
  EXPECT_EQ(started, 4);
}

}  // namespace
}  // namespace cloister::devices::virtio
