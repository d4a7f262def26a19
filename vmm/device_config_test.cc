// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/device_config.h"

#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::testing::HasSubstr;

void ExpectInvalid(const DevicesConfig& config, absl::string_view what) {
  EXPECT_THAT(ValidateDevices(config),
              base::StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr(std::string(what))));
}

DevicesConfig WithDisk(const DiskConfig& disk) {
  DevicesConfig config;
  config.disks.push_back(disk);
  return config;
}
DevicesConfig WithNet(const NetConfig& net) {
  DevicesConfig config;
  config.nets.push_back(net);
  return config;
}

TEST(DeviceConfigTest, CountsAndNamesDevices) {
  DevicesConfig config;
  EXPECT_OK(ValidateDevices(config));
  EXPECT_EQ(config.count(), 0u);
  config.disks = {{.path = "a"}, {.path = "b", .id = "root"}};
  config.nets = {{.tap = "tap0", .mac = "52:54:00:12:34:56", .queues = 4},
                 {.fds = {9}},
                 {.fds = {10, 12}, .queues = 2}};
  config.vsock = VsockConfig{.cid = 3, .path = "s"};
  config.rng.emplace();
  config.balloon.emplace();
  EXPECT_OK(ValidateDevices(config));
  EXPECT_EQ(config.count(), 8u);
  EXPECT_EQ(DiskId(config, 0), "disk0");
  EXPECT_EQ(DiskId(config, 1), "root");
  EXPECT_EQ(NetId(config, 1), "net1");
}

TEST(DeviceConfigTest, RefusesBadDisks) {
  ExpectInvalid(WithDisk({}), "--disk: a file");
  ExpectInvalid(WithDisk({.path = "a", .serial = std::string(21, 'x')}),
                "serial");
  ExpectInvalid(WithDisk({.path = "a", .serial = "\n"}), "serial");
  ExpectInvalid(WithDisk({.path = "a", .id = "a b"}), "id");
  DevicesConfig twice = WithDisk({.path = "a", .id = "x"});
  twice.disks.push_back({.path = "b", .id = "x"});
  ExpectInvalid(twice, "two devices with id x");
  // A default is a name like any other.
  twice = WithDisk({.path = "a"});
  twice.disks.push_back({.path = "b", .id = "disk0"});
  ExpectInvalid(twice, "two devices with id disk0");
}

TEST(DeviceConfigTest, RefusesBadInterfaces) {
  ExpectInvalid(WithNet({}), "either tap= or fd=");
  ExpectInvalid(WithNet({.tap = "t", .fds = {3}}), "either tap= or fd=");
  ExpectInvalid(WithNet({.tap = "t23456789012345x"}), "at most 15");
  ExpectInvalid(WithNet({.tap = "t", .queues = 0}), "queues=0");
  ExpectInvalid(WithNet({.tap = "t", .queues = 17}), "queues=17");
  ExpectInvalid(WithNet({.fds = {3}, .queues = 2}), "queues=2");
  ExpectInvalid(WithNet({.fds = {3, 4}}), "queues=1");
  ExpectInvalid(WithNet({.fds = {3, 3}, .queues = 2}), "fd=3");
  ExpectInvalid(WithNet({.fds = {-1}}), "fd=-1");
  ExpectInvalid(WithNet({.tap = "t", .mac = "01:00:00:00:00:01"}), "--net");
}

TEST(DeviceConfigTest, RefusesBadSockets) {
  DevicesConfig config;
  for (uint64_t cid :
       {uint64_t{0}, uint64_t{2}, uint64_t{0xffffffff}, uint64_t{1} << 40}) {
    config.vsock = VsockConfig{.cid = cid, .path = "s"};
    ExpectInvalid(config, "--vsock: cid=");
  }
  config.vsock = VsockConfig{.path = ""};
  ExpectInvalid(config, "path= is needed");
  config.vsock = VsockConfig{.path = std::string(97, 'x')};
  ExpectInvalid(config, "too long");
}

TEST(DeviceConfigTest, RefusesBadBalloonsAndCrowds) {
  DevicesConfig config;
  config.balloon = BalloonConfig{.target = 5};
  ExpectInvalid(config, "--balloon: target=5");
  config.balloon.reset();
  for (size_t i = 0; i <= kMaxVirtioDevices; ++i) {
    config.disks.push_back({.path = "a"});
  }
  ExpectInvalid(config, "32 virtio devices");
}

}  // namespace
}  // namespace cloister::vmm
