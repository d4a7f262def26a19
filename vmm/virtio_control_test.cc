// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/virtio_control.h"

#include <stdlib.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/balloon_pages.h"
#include "cloister/devices/virtio/console.h"
#include "cloister/devices/virtio/disk_test_file.h"
#include "cloister/devices/virtio/net_port_fake.h"
#include "cloister/devices/virtio/worker.h"
#include "cloister/memory/shared_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using base::StatusIs;
using devices::RateLimiterUpdate;
using devices::TokenBucketConfig;
using devices::virtio::Blk;
using devices::virtio::DeviceState;
using devices::virtio::DiskTestFile;
using devices::virtio::Net;
using devices::virtio::NetMac;
using devices::virtio::NetPort;
using devices::virtio::NetPortFake;
using devices::virtio::NetWire;
using devices::virtio::QueueError;
using devices::virtio::Rng;
using devices::virtio::Vsock;
using devices::virtio::Worker;
using memory::ShareRefusal;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

constexpr uint64_t kRam = uint64_t{64} << 20;
constexpr TokenBucketConfig kTen = {10, 0, milliseconds(1000)};
// A bucket that never fills is no limit, and no mistake one may make.
constexpr TokenBucketConfig kInvalid = {10, 0, milliseconds(0)};

class NoPages : public devices::virtio::BalloonPages {
 public:
  absl::StatusOr<uint64_t> GiveUp(const memory::GuestRange&) override {
    return absl::InternalError("nobody asks for pages here");
  }
  absl::Status TakeBack(const memory::GuestRange&) override {
    return absl::InternalError("nobody asks for pages here");
  }
  absl::Status TakeBackAll() override { return absl::OkStatus(); }
  absl::StatusOr<uint64_t> Discard(const memory::GuestRange&) override {
    return absl::InternalError("nobody asks for pages here");
  }
};

class VirtioControlTest : public ::testing::Test {
 protected:
  std::unique_ptr<Worker> MakeWorker() {
    auto worker = Worker::Create("device");
    EXPECT_OK(worker);
    return worker.ok() ? *std::move(worker) : nullptr;
  }

  void AddDisk(const std::string& id, const DiskTestFile& file) {
    Blk::Options options;
    options.name = id;
    options.file.path = file.path();
    options.limit.operations = kTen;
    ASSERT_OK_AND_ASSIGN(auto blk,
                         Blk::Create(std::move(options), MakeWorker()));
    control_.Add(blk.get());
    disks_.push_back(std::move(blk));
  }

  void AddNet(const std::string& id) {
    ASSERT_OK_AND_ASSIGN(NetMac mac, NetMac::Parse("52:54:00:01:02:03"));
    Net::Options options = {
        .name = id, .mac = mac, .rx_limit = {}, .tx_limit = {}};
    std::vector<std::unique_ptr<NetPort>> ports;
    ports.push_back(std::make_unique<NetPortFake>(wire_));
    ASSERT_OK_AND_ASSIGN(
        net_, Net::Create(std::move(options), std::move(ports), MakeWorker()));
    control_.Add(net_.get());
  }

  void AddBalloon(seconds interval) {
    devices::virtio::Balloon::Options options;
    options.target = 2 << 20;
    options.max = kRam;
    options.stats_interval = interval;
    ASSERT_OK_AND_ASSIGN(balloon_, devices::virtio::Balloon::Create(
                                       options, pages_, MakeWorker()));
    control_.Add(balloon_.get());
  }

  DiskTestFile image_{1 << 20};
  DiskTestFile other_{2 << 20};
  NetWire wire_;
  NoPages pages_;
  std::vector<std::unique_ptr<Blk>> disks_;
  std::unique_ptr<Net> net_;
  std::unique_ptr<Vsock> vsock_;
  std::unique_ptr<Rng> rng_;
  std::unique_ptr<devices::virtio::Balloon> balloon_;
  VirtioControl control_;
};

TEST_F(VirtioControlTest, WhatIsNotThereIsNamed) {
  DiskTestFile image(1 << 20);
  AddDisk("rootfs", image);
  EXPECT_THAT(control_.UpdateDisk("data", {}),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("there is no drive data")));
  // A drive's id is no interface's.
  EXPECT_THAT(control_.UpdateNet("rootfs", {}),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("there is no network interface rootfs")));
  for (const absl::Status& status :
       {control_.SetBalloonTarget(0),
        control_.SetBalloonStatsInterval(seconds(1)),
        control_.Balloon().status()}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound,
                                 HasSubstr("there is no balloon")));
  }
}

TEST_F(VirtioControlTest, ADiskGetsAnotherImageAndLimit) {
  DiskTestFile second(1 << 20);
  AddDisk("a", image_);
  AddDisk("b", second);
  EXPECT_OK(control_.UpdateDisk("a", {.path = other_.path(), .limit = {}}));
  EXPECT_EQ(disks_[0]->size(), 2u << 20);
  EXPECT_EQ(disks_[0]->limit().operations, kTen) << "not named";
  const TokenBucketConfig bandwidth = {4096, 1, milliseconds(7)};
  EXPECT_OK(control_.UpdateDisk(
      "a", {.path = {}, .limit = {.bandwidth = bandwidth, .operations = {}}}));
  EXPECT_EQ(disks_[0]->limit().bandwidth, bandwidth);
  EXPECT_EQ(disks_[0]->limit().operations, kTen);
  EXPECT_OK(control_.UpdateDisk(
      "a", {.path = {},
            .limit = {.bandwidth = {}, .operations = TokenBucketConfig()}}));
  EXPECT_EQ(disks_[0]->limit().operations, TokenBucketConfig()) << "taken away";
  EXPECT_EQ(disks_[0]->file().path, other_.path());
  EXPECT_EQ(disks_[1]->file().path, second.path());
  EXPECT_EQ(disks_[1]->limit().operations, kTen);
}

TEST_F(VirtioControlTest, TheSameImageMayHaveGrown) {
  AddDisk("a", image_);
  image_.Resize(3 << 20);
  EXPECT_EQ(disks_[0]->size(), 1u << 20);
  EXPECT_OK(control_.UpdateDisk("a", {.path = image_.path(), .limit = {}}));
  EXPECT_EQ(disks_[0]->size(), 3u << 20);
}

TEST_F(VirtioControlTest, ARefusedUpdateOfADiskChangesNothing) {
  AddDisk("a", image_);
  const DiskUpdate bad_limit = {
      .path = other_.path(),
      .limit = {.bandwidth = kInvalid, .operations = {}}};
  EXPECT_THAT(control_.UpdateDisk("a", bad_limit),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("rate_limiter: bandwidth")));
  EXPECT_EQ(disks_[0]->file().path, image_.path());
  const DiskUpdate bad_file = {.path = "/nowhere/disk",
                               .limit = {.bandwidth = kTen, .operations = {}}};
  EXPECT_THAT(control_.UpdateDisk("a", bad_file),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere")));
  EXPECT_EQ(disks_[0]->file().path, image_.path());
  EXPECT_EQ(disks_[0]->limit().bandwidth, TokenBucketConfig());
}

TEST_F(VirtioControlTest, EachDirectionOfAnInterfaceHasItsLimits) {
  AddNet("eth0");
  EXPECT_OK(control_.UpdateNet(
      "eth0",
      {.rx_limit = {.bandwidth = kTen, .operations = {}}, .tx_limit = {}}));
  EXPECT_EQ(net_->rx_limit().bandwidth, kTen);
  EXPECT_EQ(net_->tx_limit(), devices::RateLimiterConfig());
  EXPECT_OK(control_.UpdateNet(
      "eth0",
      {.rx_limit = {}, .tx_limit = {.bandwidth = {}, .operations = kTen}}));
  EXPECT_EQ(net_->rx_limit().bandwidth, kTen);
  EXPECT_EQ(net_->tx_limit().operations, kTen);
  // The first limit is valid, and not set: the second is not.
  EXPECT_THAT(
      control_.UpdateNet(
          "eth0", {.rx_limit = {.bandwidth = {}, .operations = kTen},
                   .tx_limit = {.bandwidth = kInvalid, .operations = {}}}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("tx_rate_limiter: bandwidth")));
  EXPECT_EQ(net_->rx_limit().operations, TokenBucketConfig());
}

TEST_F(VirtioControlTest, TheBalloonHasATargetAndStatistics) {
  AddBalloon(seconds(5));
  EXPECT_OK(control_.SetBalloonTarget(4 << 20));
  EXPECT_THAT(control_.SetBalloonTarget(kRam + 4096),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_OK(control_.SetBalloonStatsInterval(seconds(9)));
  EXPECT_THAT(control_.SetBalloonStatsInterval(seconds(-1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK_AND_ASSIGN(BalloonStatus status, control_.Balloon());
  EXPECT_EQ(status.target, 4u << 20);
  EXPECT_EQ(status.actual, 0u);
  EXPECT_EQ(status.stats_interval, seconds(9));
  EXPECT_THAT(status.guest, IsEmpty()) << "no guest has said anything";
}

TEST_F(VirtioControlTest, EveryDeviceIsCountedUnderItsKindAndId) {
  EXPECT_THAT(control_.counters(), IsEmpty());
  AddDisk("same", image_);
  AddNet("same");
  Vsock::Options options;
  // A test's own folder may have too long a name for a socket.
  char folder[] = "/tmp/control-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  options.path = absl::StrCat(folder, "/vsock");
  ASSERT_OK_AND_ASSIGN(vsock_, Vsock::Create(options, MakeWorker()));
  control_.Add(vsock_.get());
  ASSERT_OK_AND_ASSIGN(rng_, Rng::Create({}, MakeWorker()));
  control_.Add(rng_.get());
  AddBalloon(seconds(0));
  class : public devices::SerialSink {
    size_t Write(absl::Span<const uint8_t> bytes) override {
      return bytes.size();
    }
  } sink;
  ASSERT_OK_AND_ASSIGN(
      auto console, devices::virtio::Console::Create({}, sink, MakeWorker()));
  EXPECT_EQ(control_.console(), nullptr);
  control_.Add(console.get());
  EXPECT_EQ(control_.console(), console.get());
  std::vector<std::string> names;
  std::map<std::string, DeviceCounters> all;
  for (const DeviceCounters& device : control_.counters()) {
    names.push_back(device.name);
    all[device.name] = device;
  }
  EXPECT_THAT(names, ElementsAre("block_same", "net_same", "vsock", "entropy",
                                 "balloon", "console"));
  EXPECT_THAT(all["console"].counters, Contains(Pair("tx_bytes", 0)));
  EXPECT_THAT(all["block_same"].counters,
              AllOf(Contains(Pair("reads", 0)), Contains(Pair("errors", 0)),
                    Contains(Pair("throttled", 0))));
  EXPECT_THAT(all["block_same"].sizes,
              ElementsAre(Pair("in_flight", 0), Pair("disk_bytes", 1 << 20)));
  EXPECT_THAT(all["net_same"].counters, Contains(Pair("rx_packets", 0)));
  EXPECT_THAT(all["net_same"].sizes, ElementsAre(Pair("link_up", 1)));
  EXPECT_THAT(all["vsock"].counters, Contains(Pair("clients_refused", 0)));
  vsock_.reset();
  ::rmdir(folder);
  EXPECT_THAT(all["entropy"].counters, Contains(Pair("bytes", 0)));
  EXPECT_THAT(all["balloon"].sizes, Contains(Pair("target_bytes", 2 << 20)));
}

TEST_F(VirtioControlTest, TheTransportSaysWhyADeviceNeededAReset) {
  DeviceState::Counters transport;
  transport.activations = 3;
  transport.kicks = 8;
  transport.needs_reset[static_cast<size_t>(QueueError::kRingNotShared)] = 2;
  transport.needs_reset.back() = 1;
  transport.not_shared[static_cast<size_t>(ShareRefusal::kMixed)] = 2;
  transport.not_shared[static_cast<size_t>(ShareRefusal::kNotRam)] = 4;
  NamedValues counters = {{"reads", 1}};
  AddTransportCounters(transport, &counters);
  EXPECT_THAT(
      counters,
      ElementsAre(Pair("reads", 1), Pair("activations", 3), Pair("resets", 0),
                  Pair("features_refused", 0), Pair("bad_writes", 0),
                  Pair("exit_kicks", 8), Pair("needs_reset", 3),
                  Pair("needs_reset_ring_not_shared", 2),
                  Pair("needs_reset_other", 1), Pair("not_shared_not_ram", 4),
                  Pair("not_shared_half_private", 2)));
}

}  // namespace
}  // namespace cloister::vmm
