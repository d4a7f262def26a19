// SPDX-License-Identifier: Apache-2.0
//
// What the lab promises to programs that run in it.

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace {

// From the kernel's UAPI of 6.8 and 6.18; bookworm's header does not have them.
constexpr int kCapMemoryAttributes = 233;
constexpr int kCapGuestMemfd = 234;
constexpr int kCapVmTypes = 235;
constexpr int kSwProtectedVm = 1;

int Extension(int capability) {
  int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  EXPECT_GE(fd, 0);
  int value = ioctl(fd, KVM_CHECK_EXTENSION, capability);
  close(fd);
  return value;
}

TEST(LabHost, OffersPrivateMemory) {
  EXPECT_EQ(Extension(kCapGuestMemfd), 1);
  EXPECT_NE(Extension(kCapVmTypes) & (1 << kSwProtectedVm), 0);
  EXPECT_NE(Extension(kCapMemoryAttributes), 0);
}

TEST(LabHost, SaysWhichKernelItRuns) {
  const char* kernel = std::getenv("CLOISTER_IN_LAB");
  ASSERT_NE(kernel, nullptr);
  EXPECT_TRUE(std::string(kernel) == "patched" ||
              std::string(kernel) == "unpatched")
      << kernel;
}

TEST(LabHost, CanWriteWhereTestsWrite) {
  const char* of_the_test = std::getenv("TEST_TMPDIR");
  ASSERT_NE(of_the_test, nullptr);
  for (const std::string folder : {"/tmp", "/run", "/dev/shm", of_the_test}) {
    std::string path = folder + "/lab_host_test.probe";
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0) << path;
    EXPECT_EQ(write(fd, "x", 1), 1) << path;
    close(fd);
    EXPECT_EQ(unlink(path.c_str()), 0) << path;
  }
}

TEST(LabHost, HasTheLoopbackInterface) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length), 0);
  int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), length), 0);
  close(client);
  close(listener);
}

TEST(LabHost, HasTunDevices) {
  EXPECT_EQ(access("/dev/net/tun", R_OK | W_OK), 0);
}

TEST(LabHost, KeepsTheWorkingDirectory) {
  EXPECT_EQ(access("lab/lab_host_test_main", X_OK), 0);
}

TEST(LabHost, StartsWithoutAnybodyElsesProcesses) {
  // Kernel threads aside, there are init and this program.
  int others = 0;
  for (int pid = 2; pid < 4096; ++pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
    std::string line;
    if (file && std::getline(file, line, '\0') && !line.empty() &&
        pid != getpid())
      ++others;
  }
  EXPECT_EQ(others, 0);
}

// The frequency of the time stamp counter was measured and handed over, not
// guessed.
TEST(LabHost, KnowsItsClock) {
  std::ifstream file("/proc/cmdline");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find("tsc_early_khz="), std::string::npos);
  std::ifstream source(
      "/sys/devices/system/clocksource/clocksource0/current_clocksource");
  std::string name;
  std::getline(source, name);
  // Its refined form takes over about a second after the start.
  EXPECT_TRUE(name == "tsc" || name == "tsc-early") << name;
}

}  // namespace
