// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/syscalls.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "cloister/base/unique_fd.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

TEST(RealSyscalls, OpenReportsErrno) {
  EXPECT_EQ(RealSyscalls().Open("/no/such/file", O_RDONLY), -1);
  EXPECT_EQ(errno, ENOENT);
  base::UniqueFd fd(RealSyscalls().Open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(fd.valid());
}

TEST(RealSyscalls, IoctlPassesPointerAndErrno) {
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  base::UniqueFd reader(pipes[0]), writer(pipes[1]);
  ASSERT_EQ(write(writer.get(), "abc", 3), 3);
  int available = 0;
  EXPECT_EQ(RealSyscalls().Ioctl(reader.get(), FIONREAD,
                                 reinterpret_cast<uintptr_t>(&available)),
            0);
  EXPECT_EQ(available, 3);
  EXPECT_EQ(RealSyscalls().Ioctl(-1, FIONREAD, 0), -1);
  EXPECT_EQ(errno, EBADF);
}

TEST(RealSyscalls, MapsAndPunches) {
  constexpr size_t kSize = 8192;
  base::UniqueFd fd(memfd_create("syscalls_test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(fd.get(), kSize), 0);
  void* data = RealSyscalls().Mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                                   MAP_SHARED, fd.get(), 0);
  ASSERT_NE(data, MAP_FAILED);
  auto* bytes = static_cast<uint8_t*>(data);
  bytes[0] = 1;
  bytes[4096] = 2;
  EXPECT_EQ(RealSyscalls().Fallocate(
                fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
            0);
  EXPECT_EQ(bytes[0], 0);
  EXPECT_EQ(bytes[4096], 2);
  EXPECT_EQ(RealSyscalls().Munmap(data, kSize), 0);
  EXPECT_EQ(RealSyscalls().Mmap(nullptr, 0, PROT_READ, MAP_SHARED, fd.get(), 0),
            MAP_FAILED);
  EXPECT_EQ(errno, EINVAL);
}

}  // namespace
}  // namespace cloister::kvm
