// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/virtio_factory.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/base/status_matchers.h"
#include "cloister/devices/serial.h"
#include "cloister/devices/virtio/balloon_pages.h"
#include "cloister/devices/virtio/device.h"
#include "cloister/vmm/device_config.h"
#include "cloister/vmm/virtio_control.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using devices::virtio::VirtioDevice;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Virtio 1.3, section 5.
constexpr uint32_t kBlock = 2, kEntropy = 4, kBalloon = 5, kConsole = 3,
                   kSocket = 19;
constexpr uint64_t kBlkReadOnly = uint64_t{1} << 5;

class NoPages : public devices::virtio::BalloonPages {
 public:
  absl::StatusOr<uint64_t> GiveUp(const memory::GuestRange&) override {
    return absl::InternalError("nobody asks for pages here");
  }
  absl::Status TakeBack(const memory::GuestRange&) override { return {}; }
  absl::Status TakeBackAll() override { return {}; }
  absl::StatusOr<uint64_t> Discard(const memory::GuestRange&) override {
    return 0;
  }
};

class NoConsole : public devices::SerialSink {
 public:
  size_t Write(absl::Span<const uint8_t> bytes) override {
    return bytes.size();
  }
};

class VirtioFactoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/virtio-factory-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    for (const char* name : {"a", "b"}) {
      std::ofstream(Image(name), std::ios::binary) << std::string(4096, 0);
    }
    options_.balloon_pages = &pages_;
    options_.ram = 64 << 20;
    options_.console = &sink_;
    options_.control = &control_;
    config_.vsock = VsockConfig{.cid = 7, .path = folder_ + "/v"};
    config_.rng.emplace();
    config_.balloon.emplace();
    config_.console.emplace();
    config_.disks = {{.path = Image("a"), .read_only = true},
                     {.path = Image("b"), .serial = "S1", .id = "data"}};
  }
  void TearDown() override {
    for (const char* name : {"a", "b"}) ::unlink(Image(name).c_str());
    EXPECT_EQ(::rmdir(folder_.c_str()), 0) << "a socket is left behind";
  }
  std::string Image(const std::string& name) { return folder_ + "/" + name; }

  static std::string Error(const DevicesConfig& config,
                           const VirtioFactoryOptions& options) {
    return std::string(CreateVirtioDevices(config, options).status().message());
  }
  static std::vector<uint32_t> Types(
      const std::vector<std::unique_ptr<VirtioDevice>>& devices) {
    std::vector<uint32_t> types;
    for (const auto& device : devices) types.push_back(device->type());
    return types;
  }

  std::string folder_;
  NoPages pages_;
  NoConsole sink_;
  VirtioControl control_;
  VirtioFactoryOptions options_;
  DevicesConfig config_;
};

TEST_F(VirtioFactoryTest, MakesThemInTheOrderOfTheirPlaces) {
  ASSERT_OK_AND_ASSIGN(auto devices, CreateVirtioDevices(config_, options_));
  EXPECT_THAT(Types(devices), ElementsAre(kBlock, kBlock, kSocket, kEntropy,
                                          kBalloon, kConsole));
  EXPECT_EQ(devices[0]->name(), "disk0");
  EXPECT_EQ(devices[1]->name(), "data");
  std::vector<std::string> controlled;
  for (const DeviceCounters& counters : control_.counters()) {
    controlled.push_back(counters.name);
  }
  EXPECT_THAT(controlled, ElementsAre("block_disk0", "block_data", "vsock",
                                      "entropy", "balloon", "console"));
}

TEST_F(VirtioFactoryTest, PassesOnWhatTheConfigSays) {
  ASSERT_OK_AND_ASSIGN(auto devices, CreateVirtioDevices(config_, options_));
  EXPECT_NE(devices[0]->features() & kBlkReadOnly, 0u);
  EXPECT_EQ(devices[1]->features() & kBlkReadOnly, 0u);
  std::array<uint8_t, 8> cid;
  devices[2]->ReadConfig(0, absl::MakeSpan(cid));
  EXPECT_THAT(cid, ElementsAre(7, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_OK(control_.SetBalloonTarget(options_.ram));
  EXPECT_FALSE(control_.SetBalloonTarget(options_.ram + 4096).ok());
}

TEST_F(VirtioFactoryTest, NothingAskedForIsNothingMade) {
  ASSERT_OK_AND_ASSIGN(auto devices,
                       CreateVirtioDevices(DevicesConfig(), options_));
  EXPECT_TRUE(devices.empty());
}

// A filter is of use only if no thread works without it.
TEST_F(VirtioFactoryTest, EachThreadStartsWithTheHook) {
  std::atomic<int> started = 0;
  options_.on_thread_start = [&] { ++started; };
  {
    ASSERT_OK_AND_ASSIGN(auto devices, CreateVirtioDevices(config_, options_));
  }
  EXPECT_GE(started.load(), 6);
}

TEST_F(VirtioFactoryTest, ErrorsNameTheOptionAndLeaveNothingBehind) {
  DevicesConfig config = config_;
  config.disks[1].path = folder_ + "/none";
  EXPECT_THAT(Error(config, options_),
              AllOf(StartsWith("--disk: "), HasSubstr("/none")));

  // One file is not two disks.
  config = config_;
  config.disks[0].read_only = false;
  config.disks[1].path = config.disks[0].path;
  EXPECT_THAT(Error(config, options_),
              AllOf(StartsWith("--disk: "), HasSubstr("locked")));

  config = config_;
  config.nets.push_back({.fds = {999}});
  EXPECT_THAT(Error(config, options_),
              AllOf(StartsWith("--net: "), HasSubstr("fd=999")));
  config.nets[0] = {.tap = "t0", .mac = "01:00:00:00:00:00"};
  EXPECT_THAT(Error(config, options_),
              AllOf(StartsWith("--net: "), HasSubstr("01:00:00:00:00:00")));

  config = config_;
  config.vsock->path = folder_ + "/no/such/v";
  EXPECT_THAT(Error(config, options_),
              AllOf(StartsWith("--vsock: "), HasSubstr("/no/such")));

  VirtioFactoryOptions options = options_;
  options.balloon_pages = nullptr;
  EXPECT_THAT(Error(config_, options), StartsWith("--balloon: "));
  options = options_;
  options.console = nullptr;
  EXPECT_THAT(Error(config_, options), StartsWith("--console: "));
}

}  // namespace
}  // namespace cloister::vmm
