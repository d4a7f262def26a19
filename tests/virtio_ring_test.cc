// SPDX-License-Identifier: Apache-2.0
//
// Linux's drivers on split rings, in the lab: wherever packed ones are offered
// they take those, as in every other test with a real guest. By port I/O with
// INTx, and, where a guest has it, MSI-X.
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/vcpu/kick_signal.h"
#include "cloister/vmm/builder.h"
#include "cloister/vmm/micro_vm.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using confidential::BackendChoice;
using ::testing::HasSubstr;

class TextSink : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    base::MutexLock lock(&mutex_);
    text_.append(bytes.begin(), bytes.end());
    return bytes.size();
  }
  std::string text() {
    base::MutexLock lock(&mutex_);
    return text_;
  }

 private:
  base::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

// Features are shown from bit 0 on: 28 indirect, 29 event index, 32 VERSION_1,
// 33 ACCESS_PLATFORM, 34 packed.
constexpr char kScript[] =
    "cd /sys/bus/virtio/devices; "
    "for device in virtio0 virtio1; do "
    "cut -c29,30,33-35 $device/features; done; "
    "echo MSI $(grep -c PCI-MSI.*virtio /proc/interrupts); "
    "head -c 2097152 /dev/urandom >/tmp/data; "
    "dd if=/tmp/data of=/dev/vda bs=64k 2>/dev/null; sync; "
    "echo 3 >/proc/sys/vm/drop_caches; "
    "cmp -n 2097152 /tmp/data /dev/vda && echo same; "
    "echo random $(head -c 512 /dev/hwrng | wc -c)";

class VirtioRingTest : public ::testing::TestWithParam<BackendChoice> {};

TEST_P(VirtioRingTest, LinuxWorksOnSplitRings) {
  const std::string disk = absl::StrCat("/tmp/ring-disk-", getpid());
  std::ofstream(disk) << std::string(4 << 20, 'd');
  ASSERT_OK(vcpu::InstallKickHandler(SIGRTMIN));
  TextSink sink;
  vmm::VmHooks hooks;
  hooks.console = &sink;
  hooks.kick_signal = SIGRTMIN;
  vmm::VmConfig config;
  config.kernel.path = GuestFile("TINY", "KERNEL");
  config.kernel.initrd_path = GuestFile("TINY", "INITRAMFS");
  config.kernel.command_line = absl::StrCat(
      "console=ttyS0 quiet panic=-1 cloister.run=\"", kScript, "\"");
  config.memory.bytes = 128 << 20;
  config.confidential.backend = GetParam();
  config.devices.packed_rings = false;
  config.devices.disks.emplace_back().path = disk;
  config.devices.rng.emplace();
  ASSERT_OK_AND_ASSIGN(auto vm, vmm::BuildVm(config, hooks));
  ASSERT_OK(vm->Start());
  const vmm::VmEnd end = vm->Wait();
  const std::string text = sink.text();
  EXPECT_EQ(end.kind, vmm::VmEnd::Kind::kPowerOff) << end.status << "\n"
                                                   << text;
  EXPECT_THAT(text, HasSubstr("11110\r\n11110\r\n"));
  const bool msi = GetParam() != BackendChoice::kSwProtected;
  EXPECT_THAT(text, HasSubstr(msi ? "MSI 4\r\n" : "MSI 0\r\n"));
  EXPECT_THAT(text, HasSubstr("same\r\n"));
  EXPECT_THAT(text, HasSubstr("random 512\r\n"));
  for (const vmm::DeviceCounters& device : vm->device_counters()) {
    std::map<std::string, uint64_t> counters(device.counters.begin(),
                                             device.counters.end());
    EXPECT_EQ(counters["activations"], 1u) << device.name;
    EXPECT_EQ(counters["needs_reset"], 0u) << device.name;
    EXPECT_EQ(counters["exit_kicks"], 0u) << device.name;
  }
  EXPECT_EQ(vm->view().LeasedBytes(), 0u);
  ::unlink(disk.c_str());
}

INSTANTIATE_TEST_SUITE_P(
    Backends, VirtioRingTest,
    ::testing::Values(BackendChoice::kOff, BackendChoice::kSwProtected),
    [](const ::testing::TestParamInfo<BackendChoice>& info) {
      return info.param == BackendChoice::kOff ? "off" : "sw_protected";
    });

}  // namespace
}  // namespace cloister::tests
