// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/vm_config.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/config_store.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/vmm/device_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kWhole[] = R"({
  "boot-source": {"kernel_image_path": "/k", "initrd_path": "/i",
                  "boot_args": "quiet"},
  "machine-config": {"vcpu_count": 4, "mem_size_mib": 512, "smt": true,
                     "huge_pages": "2M"},
  "confidential": {"backend": "emulated", "conversion_reports": "fault",
                   "expected_digest": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                   "exchange_windows": [{"gpa": "0x100000000", "len": "1MiB"}]},
  "memory-policy": {"implicit": "deny", "shared_limit": "64MiB",
                    "per_second": 9, "burst": 3},
  "drives": [
    {"drive_id": "logs", "path_on_host": "/logs", "is_root_device": false,
     "is_read_only": true,
     "rate_limiter": {"ops": {"size": 5, "refill_time": 100}}},
    {"drive_id": "root", "path_on_host": "/root", "is_root_device": true,
     "partuuid": "0eaa91a0-01"}],
  "network-interfaces": [
    {"iface_id": "eth0", "host_dev_name": "tap7",
     "guest_mac": "02:00:00:00:00:07",
     "tx_rate_limiter": {"bandwidth": {"size": 0, "refill_time": 100}}}],
  "vsock": {"guest_cid": 5, "uds_path": "/v"},
  "entropy": {},
  "balloon": {"amount_mib": 16, "deflate_on_oom": true,
              "stats_polling_interval_s": 2}})";

vmm::VmConfig Parse(const std::string& text) {
  ConfigStore store;
  EXPECT_OK(store.Load(text));
  auto config = VmConfigFromJson(store.json(), "vm9");
  EXPECT_OK(config);
  return config.ok() ? *config : vmm::VmConfig();
}

TEST(VmConfigTest, EverySectionHasItsPlace) {
  const vmm::VmConfig vm = Parse(kWhole);
  EXPECT_EQ(vm.id, "vm9");
  EXPECT_EQ(vm.kernel.path, "/k");
  EXPECT_EQ(vm.kernel.initrd_path, "/i");
  // As Firecracker completes it for the root device.
  EXPECT_EQ(vm.kernel.command_line, "quiet root=PARTUUID=0eaa91a0-01 rw");
  EXPECT_EQ(vm.cpus.count, 4u);
  EXPECT_EQ(vm.cpus.threads_per_core, 2u);
  EXPECT_EQ(vm.memory.bytes, uint64_t{512} << 20);
  EXPECT_EQ(vm.memory.huge_pages, memory::HugePages::kHugetlb2M);
  const vmm::ConfidentialConfig& confidential = vm.confidential;
  EXPECT_EQ(confidential.backend, confidential::BackendChoice::kEmulated);
  EXPECT_EQ(confidential.reports, vmm::ConversionReports::kFault);
  ASSERT_EQ(confidential.exchange_windows.size(), 1u);
  EXPECT_EQ(confidential.exchange_windows[0].size(), 1u << 20);
  EXPECT_EQ(confidential.policy.implicit, memory::ImplicitPolicy::kDeny);
  EXPECT_EQ(confidential.policy.shared_limit, uint64_t{64} << 20);
  EXPECT_EQ(confidential.policy.per_second, 9u);
  EXPECT_EQ(confidential.policy.burst, 3u);
}

TEST(VmConfigTest, DevicesAreInTheGuestsOrder) {
  const vmm::DevicesConfig devices = Parse(kWhole).devices;
  ASSERT_EQ(devices.disks.size(), 2u);
  EXPECT_EQ(devices.disks[0].id, "root") << "the root device is /dev/vda";
  EXPECT_FALSE(devices.disks[0].read_only);
  EXPECT_EQ(devices.disks[1].path, "/logs");
  EXPECT_TRUE(devices.disks[1].read_only);
  EXPECT_EQ(devices.disks[1].limit.operations.size, 5u);
  EXPECT_EQ(devices.disks[1].limit.operations.refill_time,
            std::chrono::milliseconds(100));
  ASSERT_EQ(devices.nets.size(), 1u);
  EXPECT_EQ(devices.nets[0].tap, "tap7");
  EXPECT_EQ(devices.nets[0].mac, "02:00:00:00:00:07");
  EXPECT_EQ(devices.nets[0].tx_limit.bandwidth.size, 0u) << "no limit";
  EXPECT_EQ(devices.vsock->cid, 5u);
  EXPECT_TRUE(devices.rng.has_value());
  EXPECT_EQ(devices.balloon->target, uint64_t{16} << 20);
  EXPECT_TRUE(devices.balloon->deflate_on_oom);
  EXPECT_EQ(devices.balloon->stats_seconds, 2u);
  EXPECT_EQ(devices.transport, vmm::VirtioTransport::kPci);
}

TEST(VmConfigTest, WhatAGuestIsToldDecidesItsTransport) {
  EXPECT_EQ(Parse(R"({"boot-source": {"kernel_image_path": "/k",
                      "boot_args": "quiet pci=off"}})")
                .devices.transport,
            vmm::VirtioTransport::kMmio);
}

TEST(VmConfigTest, ConsoleAndTransportMayBeNamed) {
  auto with = [](const std::string& fields) {
    return Parse(absl::StrCat(
                     R"({"boot-source": {"kernel_image_path": "/k",
                         "boot_args": "pci=off"},
                         "machine-config": {"vcpu_count": 1,
                         "mem_size_mib": 64, )",
                     fields, "}}"))
        .devices;
  };
  EXPECT_EQ(with(R"("virtio_transport": "mmio-fdt")").transport,
            vmm::VirtioTransport::kMmioFdt);
  EXPECT_EQ(with(R"("virtio_transport": "mmio")").transport,
            vmm::VirtioTransport::kMmio);
  EXPECT_EQ(with(R"("virtio_transport": "pci")").transport,
            vmm::VirtioTransport::kPci);
  EXPECT_TRUE(with(R"("console": "virtio")").console.has_value());
  EXPECT_FALSE(with(R"("console": "serial")").console.has_value());
  EXPECT_FALSE(with(R"("console": "none")").console.has_value());
}

TEST(VmConfigTest, TheTextOfAConfigurationNamesConsoleAndTransport) {
  vmm::VmConfig vm = Parse(kWhole);
  for (const char* console : {"serial", "virtio", "none"}) {
    ConfigStore store;
    ASSERT_OK(store.Load(ConfigText(vm, console)));
    EXPECT_EQ(ConsoleOf(store.json()), console);
    EXPECT_EQ(store.json()["machine-config"]["virtio_transport"], "pci");
  }
  for (auto transport :
       {vmm::VirtioTransport::kMmio, vmm::VirtioTransport::kMmioFdt}) {
    vm.devices.transport = transport;
    EXPECT_EQ(Parse(ConfigText(vm, "serial")).devices.transport, transport);
  }
  EXPECT_EQ(ConsoleOf(ConfigStore().json()), "serial");
}

TEST(VmConfigTest, TheTextOfAConfigurationDescribesIt) {
  vmm::VmConfig vm = Parse(kWhole);
  const vmm::VmConfig again = Parse(ConfigText(vm, "serial"));
  EXPECT_EQ(again.kernel.path, vm.kernel.path);
  EXPECT_EQ(again.kernel.command_line, vm.kernel.command_line);
  EXPECT_EQ(again.cpus.count, vm.cpus.count);
  EXPECT_EQ(again.cpus.threads_per_core, vm.cpus.threads_per_core);
  EXPECT_EQ(again.memory.bytes, vm.memory.bytes);
  EXPECT_EQ(again.memory.huge_pages, vm.memory.huge_pages);
  EXPECT_EQ(again.confidential.backend, vm.confidential.backend);
  EXPECT_EQ(again.confidential.reports, vm.confidential.reports);
  EXPECT_EQ(vm.confidential.expected_digest.substr(48), "0123456789abcdef");
  EXPECT_EQ(again.confidential.expected_digest,
            vm.confidential.expected_digest);
  EXPECT_EQ(again.confidential.exchange_windows,
            vm.confidential.exchange_windows);
  EXPECT_EQ(again.confidential.policy.implicit,
            vm.confidential.policy.implicit);
  EXPECT_EQ(again.confidential.policy.shared_limit,
            vm.confidential.policy.shared_limit);
  ASSERT_EQ(again.devices.disks.size(), 2u);
  EXPECT_EQ(again.devices.disks[0].path, "/root");
  EXPECT_EQ(again.devices.nets[0].tap, "tap7");
  EXPECT_EQ(again.devices.vsock->path, "/v");
  EXPECT_EQ(again.devices.balloon->target, vm.devices.balloon->target);
}

// A VM that options describe: with every limit that they can set.
TEST(VmConfigTest, TheTextOfAConfigurationHasItsLimits) {
  vmm::VmConfig vm = Parse(kWhole);
  const devices::RateLimiterConfig limit = {
      .bandwidth = {.size = 1 << 20,
                    .one_time_burst = 7,
                    .refill_time = std::chrono::seconds(1)},
      .operations = {.size = 100,
                     .refill_time = std::chrono::milliseconds(300)}};
  vm.devices.disks[1].limit = limit;
  vm.devices.nets[0].rx_limit = limit;
  vm.devices.nets[0].tx_limit.operations = limit.operations;
  vm.devices.vsock->rx_limit.bandwidth = limit.bandwidth;
  vm.devices.vsock->tx_limit = limit;
  vm.devices.rng->limit = limit;
  vm.devices.console.emplace();
  vm.devices.console->tx_limit = limit;
  const vmm::DevicesConfig again = Parse(ConfigText(vm, "virtio")).devices;
  EXPECT_EQ(again.disks[0].limit, devices::RateLimiterConfig());
  EXPECT_EQ(again.disks[1].limit, limit);
  EXPECT_EQ(again.nets[0].rx_limit, limit);
  EXPECT_EQ(again.nets[0].tx_limit, vm.devices.nets[0].tx_limit);
  EXPECT_EQ(again.nets[0].mac, vm.devices.nets[0].mac);
  EXPECT_EQ(again.vsock->rx_limit, vm.devices.vsock->rx_limit);
  EXPECT_EQ(again.vsock->tx_limit, limit);
  EXPECT_EQ(again.rng->limit, limit);
  EXPECT_EQ(again.console->tx_limit, limit);
}

TEST(VmConfigTest, TheTextOfAConfigurationHasWhatFirecrackersLacks) {
  vmm::VmConfig vm = Parse(kWhole);
  EXPECT_FALSE(vm.devices.disks[1].direct);
  EXPECT_EQ(vm.devices.disks[1].serial, "");
  EXPECT_EQ(vm.devices.nets[0].queues, 1u);
  // Who does not know of them does not see them.
  const std::string plain = ConfigText(vm, "serial");
  for (const char* field : {"direct", "serial\":", "queues"}) {
    EXPECT_THAT(plain, Not(HasSubstr(field)));
  }
  vm.devices.disks[1].direct = true;
  vm.devices.disks[1].serial = "S 1";
  vm.devices.nets[0].queues = 16;
  const vmm::DevicesConfig again = Parse(ConfigText(vm, "serial")).devices;
  EXPECT_FALSE(again.disks[0].direct);
  EXPECT_EQ(again.disks[0].serial, "");
  EXPECT_TRUE(again.disks[1].direct);
  EXPECT_EQ(again.disks[1].serial, "S 1");
  EXPECT_EQ(again.nets[0].queues, 16u);
}

TEST(VmConfigTest, ALimitOfAConsoleThatIsNotThereIsRefused) {
  ConfigStore store;
  ASSERT_OK(store.Load(R"({"boot-source": {"kernel_image_path": "/k"},
      "machine-config": {"vcpu_count": 1, "mem_size_mib": 64,
          "console_rate_limiter": {"ops": {"size": 1, "refill_time": 1}}}})"));
  EXPECT_THAT(VmConfigFromJson(store.json(), "vm"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("console_rate_limiter")));
}

// Its name is the kernel's to say; a descriptor of something else has none.
TEST(VmConfigTest, ATapThatCameAsADescriptorIsShown) {
  vmm::VmConfig vm = Parse(kWhole);
  vm.devices.nets.push_back({});
  vm.devices.nets[1].fds = {STDERR_FILENO};
  vmm::DevicesConfig shown = Parse(ConfigText(vm, "serial")).devices;
  ASSERT_EQ(shown.nets.size(), 2u);
  EXPECT_EQ(shown.nets[1].tap, "fd:2");
  const base::UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  struct ifreq request = {};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (!tun.valid() || ::ioctl(tun.get(), TUNSETIFF, &request) != 0) {
    GTEST_SKIP() << "no tap can be made here";
  }
  vm.devices.nets[1].fds = {tun.get()};
  shown = Parse(ConfigText(vm, "serial")).devices;
  ASSERT_EQ(shown.nets.size(), 2u);
  EXPECT_EQ(shown.nets[1].tap, request.ifr_name);
}

TEST(VmConfigTest, BucketsWithoutASizeOrATimeAreNoLimit) {
  EXPECT_EQ(TokenBucketFromJson({{"size", 7}, {"refill_time", 0}}).size, 0u);
  EXPECT_EQ(TokenBucketFromJson({{"size", 0}, {"refill_time", 7}}).size, 0u);
  const auto bucket = TokenBucketFromJson(
      {{"size", 7}, {"refill_time", 8}, {"one_time_burst", 9}});
  EXPECT_EQ(bucket.size, 7u);
  EXPECT_EQ(bucket.one_time_burst, 9u);
}

TEST(VmConfigTest, PoliciesHaveDefaults) {
  const memory::ConversionPolicy policy = PolicyFromJson(Json::object());
  EXPECT_EQ(policy.implicit, memory::ImplicitPolicy::kCount);
  EXPECT_EQ(policy.shared_limit, UINT64_MAX);
  EXPECT_EQ(policy.per_second, 0u);
  EXPECT_EQ(policy.burst, 64u);
}

}  // namespace
}  // namespace cloister::api
