// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/device_options.h"

#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
void ExpectInvalid(const absl::StatusOr<T>& result, absl::string_view what) {
  EXPECT_THAT(result, base::StatusIs(absl::StatusCode::kInvalidArgument,
                                     HasSubstr(std::string(what))));
}

TEST(DeviceOptionsTest, ParsesDisks) {
  ASSERT_OK_AND_ASSIGN(vmm::DiskConfig disk, ParseDisk("/a b.img"));
  EXPECT_EQ(disk.path, "/a b.img");
  EXPECT_FALSE(disk.read_only);
  EXPECT_EQ(disk.limit.bandwidth.size, 0u);
  ASSERT_OK_AND_ASSIGN(
      disk, ParseDisk("x,ro,direct,serial=a=b,id=root,bps=2M,iops=100"));
  EXPECT_TRUE(disk.read_only);
  EXPECT_TRUE(disk.direct);
  EXPECT_EQ(disk.serial, "a=b");
  EXPECT_EQ(disk.id, "root");
  EXPECT_EQ(disk.limit.bandwidth.size, uint64_t{2} << 20);
  EXPECT_EQ(disk.limit.bandwidth.refill_time, std::chrono::seconds(1));
  EXPECT_EQ(disk.limit.operations.size, 100u);
}

TEST(DeviceOptionsTest, NamesTheWrongPartOfADisk) {
  ExpectInvalid(ParseDisk("x,rw"), "\"rw\"");
  ExpectInvalid(ParseDisk("x,ro=1"), "\"ro=1\"");
  ExpectInvalid(ParseDisk("x,"), "\"\"");
  ExpectInvalid(ParseDisk("x,serial="), "serial");
  ExpectInvalid(ParseDisk("x,ro,ro"), "ro is given twice");
  ExpectInvalid(ParseDisk("x,iops=0"), "iops");
  ExpectInvalid(ParseDisk("x,bps=fast"), "bps");
}

TEST(DeviceOptionsTest, ParsesInterfaces) {
  ASSERT_OK_AND_ASSIGN(
      vmm::NetConfig net,
      ParseNet("tap=tap0,mac=52:54:00:00:00:01,queues=2,id=lan,pps=5"));
  EXPECT_EQ(net.tap, "tap0");
  EXPECT_EQ(net.mac, "52:54:00:00:00:01");
  EXPECT_EQ(net.queues, 2u);
  EXPECT_EQ(net.id, "lan");
  EXPECT_EQ(net.rx_limit.operations.size, 5u);
  EXPECT_EQ(net.tx_limit, net.rx_limit);
  ASSERT_OK_AND_ASSIGN(net, ParseNet("fd=7"));
  EXPECT_THAT(net.fds, ElementsAre(7));
  EXPECT_EQ(net.queues, 1u);
  ASSERT_OK_AND_ASSIGN(net, ParseNet("fd=7:9:8"));
  EXPECT_THAT(net.fds, ElementsAre(7, 9, 8));
  EXPECT_EQ(net.queues, 3u);
  ASSERT_OK_AND_ASSIGN(net, ParseNet("queues=2,fd=7:8"));
  EXPECT_EQ(net.queues, 2u);
  for (const char* fds : {"fd=", "fd=7:", "fd=:7", "fd=7:x", "fd=-1"}) {
    ExpectInvalid(ParseNet(fds), fds);
  }
  ExpectInvalid(ParseNet("tap0"), "\"tap0\"");
  ExpectInvalid(ParseNet("fd=x"), "fd=x");
  ExpectInvalid(ParseNet("tap="), "tap");
  ExpectInvalid(ParseNet("tap=a,queues=-1"), "queues=-1");
}

TEST(DeviceOptionsTest, ParsesSocketsAndBalloons) {
  ASSERT_OK_AND_ASSIGN(vmm::VsockConfig vsock,
                       ParseVsock("cid=5,path=/run/v.sock"));
  EXPECT_EQ(vsock.cid, 5u);
  EXPECT_EQ(vsock.path, "/run/v.sock");
  ExpectInvalid(ParseVsock("cid=x"), "cid=x");
  ExpectInvalid(ParseVsock("port=1"), "\"port=1\"");
  ASSERT_OK_AND_ASSIGN(vmm::BalloonConfig balloon,
                       ParseBalloon("target=64M,oom,reporting,stats=5"));
  EXPECT_EQ(balloon.target, uint64_t{64} << 20);
  EXPECT_TRUE(balloon.deflate_on_oom);
  EXPECT_TRUE(balloon.reporting);
  EXPECT_EQ(balloon.stats_seconds, 5u);
  ASSERT_OK_AND_ASSIGN(balloon, ParseBalloon(""));
  EXPECT_EQ(balloon.target, 0u);
  ExpectInvalid(ParseBalloon("oom=1"), "\"oom=1\"");
  ExpectInvalid(ParseBalloon("big"), "\"big\"");
  EXPECT_FALSE(ParseBalloon("target=much").ok());
}

// Each by the same names, but for what it calls its operations.
TEST(DeviceOptionsTest, EveryDeviceThatMovesDataHasLimits) {
  const devices::RateLimiterConfig wanted = {
      .bandwidth = {.size = 2 << 20,
                    .one_time_burst = 1 << 20,
                    .refill_time = std::chrono::seconds(1)},
      .operations = {.size = 5,
                     .one_time_burst = 50,
                     .refill_time = std::chrono::seconds(1)}};
  auto limits = [](const char* ops) {
    return absl::StrCat("bps=2M,bps_burst=1M,", ops, "=5,", ops, "_burst=50");
  };
  ASSERT_OK_AND_ASSIGN(auto disk, ParseDisk("x," + limits("iops")));
  EXPECT_EQ(disk.limit, wanted);
  ASSERT_OK_AND_ASSIGN(auto net, ParseNet("tap=t," + limits("pps")));
  EXPECT_EQ(net.rx_limit, wanted);
  EXPECT_EQ(net.tx_limit, wanted);
  ASSERT_OK_AND_ASSIGN(auto vsock,
                       ParseVsock("cid=3,path=/v," + limits("pps")));
  EXPECT_EQ(vsock.rx_limit, wanted);
  EXPECT_EQ(vsock.tx_limit, wanted);
  ASSERT_OK_AND_ASSIGN(auto rng, ParseRng(limits("ops")));
  EXPECT_EQ(rng.limit, wanted);
  ASSERT_OK_AND_ASSIGN(auto console, ParseConsoleLimits(limits("ops")));
  EXPECT_EQ(console.tx_limit, wanted);
  ASSERT_OK_AND_ASSIGN(rng, ParseRng(""));
  EXPECT_EQ(rng.limit, devices::RateLimiterConfig());
  ASSERT_OK_AND_ASSIGN(console, ParseConsoleLimits(""));
  EXPECT_EQ(console.tx_limit, devices::RateLimiterConfig());
}

TEST(DeviceOptionsTest, LimitsThatAreNoneAreNamed) {
  ExpectInvalid(ParseDisk("x,bps_burst=1M"), "bps");
  ExpectInvalid(ParseNet("tap=t,pps_burst=1"), "pps");
  ExpectInvalid(ParseVsock("cid=3,path=/v,pps_burst=1"), "pps");
  ExpectInvalid(ParseRng("ops_burst=1"), "ops");
  ExpectInvalid(ParseConsoleLimits("bps_burst=1"), "bps");
  ExpectInvalid(ParseRng("iops=1"), "\"iops=1\"");
  ExpectInvalid(ParseRng("ops=0"), "ops");
  ExpectInvalid(ParseRng("bps="), "bps");
  ExpectInvalid(ParseConsoleLimits("fast"), "\"fast\"");
}

TEST(DeviceOptionsTest, ParsesTransports) {
  EXPECT_THAT(ParseVirtioTransport("pci"),
              base::IsOkAndHolds(vmm::VirtioTransport::kPci));
  EXPECT_THAT(ParseVirtioTransport("mmio"),
              base::IsOkAndHolds(vmm::VirtioTransport::kMmio));
  EXPECT_THAT(ParseVirtioTransport("mmio-fdt"),
              base::IsOkAndHolds(vmm::VirtioTransport::kMmioFdt));
  ExpectInvalid(ParseVirtioTransport("isa"), "pci, mmio or mmio-fdt");
}

}  // namespace
}  // namespace cloister::cli
