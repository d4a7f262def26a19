// SPDX-License-Identifier: Apache-2.0
//
// A kernel with CONFIG_OF and without ACPI tables finds its virtio devices by
// the device tree that it gets in their place, and uses them; its user is at a
// virtio console, on a pseudo-terminal.
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/cli/pty_session.h"
#include "cloister/tests/lab_settings.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

// Each line says what it found; the device tree's files end in a zero byte.
constexpr char kScript[] =
    "tree=/sys/firmware/devicetree/base; "
    "echo nodes $(ls $tree | grep -c virtio_mmio), "
    "cpus $(ls $tree/cpus | grep -c cpu@); "
    "ls /sys/firmware | grep -q acpi || echo no ACPI; "
    "echo pins $(grep -c IO-APIC.*virtio /proc/interrupts); "
    "echo random $(head -c 128 /dev/hwrng | wc -c); "
    "head -c 1048576 /dev/urandom >/tmp/data; "
    "dd if=/tmp/data of=/dev/vda bs=64k 2>/dev/null; sync; "
    "echo 3 >/proc/sys/vm/drop_caches; "
    "cmp -n 1048576 /tmp/data /dev/vda && echo same; "
    "echo size $(stty size </dev/hvc0); "
    "until [ $(stty size </dev/hvc0 | tr -d ' ') = 30100 ]; "
    "do usleep 10000; done; echo resized; "
    "read line; echo told $line; reboot -f";

class VirtioFdtTest : public ::testing::TestWithParam<const char*> {};

TEST_P(VirtioFdtTest, DevicesAreFoundByDeviceTree) {
  const std::string disk = absl::StrCat("/tmp/fdt-disk-", getpid());
  std::ofstream(disk) << std::string(4 << 20, 'd');
  ASSERT_OK_AND_ASSIGN(auto pty, cli::PtySession::Create());
  ASSERT_OK(pty->Resize(132, 43));
  ASSERT_OK(pty->Start(
      {"cli/cloister",
       "run",
       "--kernel",
       GuestFile("TINY", "KERNEL"),
       "--initrd",
       GuestFile("TINY", "INITRAMFS"),
       "--append",
       absl::StrCat("console=hvc0 quiet panic=-1 reboot=k cloister.run=\"",
                    kScript, "\""),
       "--memory",
       "192M",
       "--cpus",
       "2",
       "--confidential",
       GetParam(),
       "--virtio-transport",
       "mmio-fdt",
       "--console",
       "virtio",
       "--disk",
       disk,
       "--rng"}));
  EXPECT_OK(pty->Expect("nodes 3, cpus 2"));
  EXPECT_FALSE(pty->restored()) << "the terminal is raw";
  EXPECT_OK(pty->Expect("no ACPI"));
  EXPECT_OK(pty->Expect("pins 3"));
  EXPECT_OK(pty->Expect("random 128"));
  EXPECT_OK(pty->Expect("same"));
  EXPECT_OK(pty->Expect("size 43 132"));
  ASSERT_OK(pty->Resize(100, 30));
  EXPECT_OK(pty->Expect("resized"));
  ASSERT_OK(pty->Type("hello\n"));
  EXPECT_OK(pty->Expect("told hello"));
  ASSERT_OK_AND_ASSIGN(const int status, pty->Wait());
  ASSERT_TRUE(WIFEXITED(status)) << "wait status " << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(pty->restored());
  ::unlink(disk.c_str());
}

INSTANTIATE_TEST_SUITE_P(Backends, VirtioFdtTest,
                         ::testing::Values("off", "sw-protected"),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param) == "off"
                                      ? "off"
                                      : "sw_protected";
                         });

}  // namespace
}  // namespace cloister::tests
