// SPDX-License-Identifier: Apache-2.0
//
// Networks and sockets of real guests, in the lab: what a guest sends arrives
// as it was sent, through a tap and between network namespaces, and over vsock
// both ways; a tap that goes away is a link that is down. Few guests do all of
// it, since a boot takes longer than most of it.
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/devices_fixture.h"
#include "cloister/tests/doc_commands.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/tests/shell.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kCloister[] = "cli/cloister";
constexpr char kTool[] = "tests/virtio_net_guest";  // bin/net_guest in guests
const std::chrono::seconds kPatience(Soak() ? 2400 : 800);

// What is moved each way.
int MiB() { return Soak() ? 1024 : 64; }

// Two network namespaces joined by a cable: the monitor's, with two taps and a
// router, and a peer's, 10.9.1.2. The guest is to be 10.9.0.2 on tap0 and
// 10.9.2.2 on tap1, which has several queues.
class Network {
 public:
  Network()
      : monitor_(absl::StrCat("monitor", getpid())),
        peer_(absl::StrCat("peer", getpid())) {
    Sh(absl::StrCat("ip netns add ", monitor_, "; ip netns add ", peer_,  //
                    "; ip -n ", monitor_,
                    " link add eth0 type veth peer name cable netns ",
                    peer_,                                                   //
                    "; ip -n ", monitor_, " addr add 10.9.1.1/24 dev eth0",  //
                    "; ip -n ", monitor_, " link set eth0 up",               //
                    "; ip -n ", peer_, " addr add 10.9.1.2/24 dev cable",    //
                    "; ip -n ", peer_, " link set cable up",                 //
                    "; ip -n ", peer_, " route add default via 10.9.1.1"));
    AddTap("tap0", "10.9.0.1/24", "");
    AddTap("tap1", "10.9.2.1/24", " multi_queue");
    Sh(absl::StrCat("ip netns exec ", monitor_,
                    " sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'"));
  }
  ~Network() {
    Sh(absl::StrCat("ip netns del ", monitor_, "; ip netns del ", peer_));
  }

  const std::string& monitor() const { return monitor_; }
  const std::string& peer() const { return peer_; }
  absl::StatusOr<std::unique_ptr<GuestProcess>> AtPeer(
      std::vector<std::string> argv) const {
    argv.insert(argv.begin(), {"ip", "netns", "exec", peer_});
    return GuestProcess::Start(argv);
  }

 private:
  void AddTap(const std::string& tap, const std::string& address,
              const std::string& options) {
    Sh(absl::StrCat("ip -n ", monitor_, " tuntap add dev ", tap, " mode tap",
                    options, "; ip -n ", monitor_, " addr add ", address,
                    " dev ", tap, "; ip -n ", monitor_, " link set ", tap,
                    " up"));
  }

  const std::string monitor_;
  const std::string peer_;
};

struct Options {
  std::string backend = "off";
  int cpus = 1;
  std::string run = "";    // in the guest
  std::string netns = "";  // of the monitor; empty: the test's
  std::vector<std::string> more = {};
};

absl::StatusOr<std::unique_ptr<GuestProcess>> Boot(const Options& options) {
  std::vector<std::string> argv;
  if (!options.netns.empty()) argv = {"ip", "netns", "exec", options.netns};
  const std::string guest = "DEBIAN_6_1";
  argv.insert(argv.end(),
              {kCloister, "run", "--kernel", GuestFile(guest, "KERNEL"),
               "--initrd", GuestFile(guest, "INITRAMFS"), "--append",
               absl::StrCat("console=ttyS0 quiet panic=-1 cloister.run=\"",
                            options.run, "\""),
               "--memory", "256M", "--cpus", absl::StrCat(options.cpus),
               "--confidential", options.backend});
  argv.insert(argv.end(), options.more.begin(), options.more.end());
  return GuestProcess::Start(argv);
}

// What a monitor says about a device that it cannot have, before anything
// boots.
std::string Refusal(const Network& network,
                    const std::vector<std::string>& device) {
  auto guest =
      Boot({.run = "true", .netns = network.monitor(), .more = device});
  EXPECT_OK(guest);
  EXPECT_THAT((*guest)->Wait(), IsOkAndHolds(::testing::Ne(0)));
  EXPECT_THAT((*guest)->output(), Not(HasSubstr("cloister guest")));
  return (*guest)->output();
}

class DevicesTest : public DevicesFixture {
 protected:
  DevicesTest() : DevicesFixture(kPatience) {}
  void SetUp() override {
    char folder[] = "/run/vsock-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/v";
    api_ = folder_ + "/api";
  }
  void TearDown() override {
    DevicesFixture::TearDown();
    // The monitor's socket is gone, and what the test made.
    Sh(absl::StrCat("rm -f ", path_, "_6000; rmdir ", folder_));
  }

  void Start(int cpus, std::vector<std::string> devices) {
    ASSERT_OK_AND_ASSIGN(
        guest_, Boot({.backend = GetParam(),
                      .cpus = cpus,
                      .run = "echo ready; while read -r line; do eval $line; "
                             "echo ended with $?.; done",
                      .netns = network_.monitor(),
                      .more = std::move(devices)}));
    ASSERT_OK(guest_->Expect("ready", kPatience));
  }
  void Leave() {
    EXPECT_OK(guest_->Type("exit\n"));
    EXPECT_OK(guest_->Expect("command ended with 0"));
    EXPECT_THAT(guest_->Wait(kPatience), IsOkAndHolds(0)) << guest_->output();
  }

  // Moves data between the guest and a server at the peer.
  void Move(int mib, const std::string& prefix) {
    ASSERT_OK_AND_ASSIGN(auto server,
                         network_.AtPeer({kTool, "serve", "tcp:0.0.0.0:5000",
                                          absl::StrCat(mib), "7"}));
    ASSERT_OK(server->Expect("listening"));
    EXPECT_THAT(Do(absl::StrCat(prefix, "net_guest move tcp:10.9.1.2:5000 ",
                                mib, " 7")),
                HasSubstr(absl::StrCat("moved ", mib, " MiB each way")));
    EXPECT_THAT(server->Wait(kPatience), IsOkAndHolds(0)) << server->output();
  }

  // What the machine that the monitor runs on has free.
  static uint64_t FreeBytes() {
    std::ifstream memory("/proc/meminfo");
    std::string line;
    while (std::getline(memory, line)) {
      absl::string_view rest = line;
      if (!absl::ConsumePrefix(&rest, "MemFree:")) continue;
      return std::strtoull(std::string(rest).c_str(), nullptr, 10) * 1024;
    }
    ADD_FAILURE() << "no MemFree";
    return 0;
  }

  // The second card, otherwise idle, has two pairs of queues and one for
  // control.
  void WhileTheOtherCardComesAndGoes(const std::function<void()>& transfer) {
    WhileItConverts("eth1", 5, transfer);
  }

  void TheGuestReadsTheHostsBytes();
  void PingsAndMovesDataThroughATap();
  void SeveralQueuesMoveDataToo();
  void SocketsMoveDataBothWaysFromBothSides();
  void TheBalloonTakesWhatItIsAskedTo();
  void TheGuestTellsOfItsMemory();
  void TheHostHasBackWhatTheGuestFreed();
  void WhatIsInUseHasOneUser();
  void ATapThatGoesAwayIsALinkThatIsDown();

  Network network_;
  std::string folder_, path_;
};

void DevicesTest::TheGuestReadsTheHostsBytes() {
  EXPECT_THAT(Do("cat /sys/class/misc/hw_random/rng_current"),
              HasSubstr("virtio_rng.0"));
  EXPECT_THAT(Do("dd if=/dev/hwrng bs=64 count=16 2>/dev/null | wc -c"),
              HasSubstr("\n1024\n"));
}

void DevicesTest::PingsAndMovesDataThroughATap() {
  EXPECT_THAT(Do("ip link set lo up; ip addr add 10.9.0.2/24 dev eth0; "
                 "ip link set eth0 up; ip route add default via 10.9.0.1; "
                 "cat /sys/class/net/eth0/address"),
              HasSubstr("52:54:00:aa:bb:cc\n"));
  EXPECT_THAT(Do("ping -c 3 -i 0.2 10.9.1.2"), HasSubstr("3 packets received"));
  WhileTheOtherCardComesAndGoes([this] { Move(MiB(), ""); });
}

void DevicesTest::SeveralQueuesMoveDataToo() {
  EXPECT_THAT(Do("ip addr add 10.9.2.2/24 dev eth1; ip link set eth1 up; "
                 "ip route add 10.9.1.2 via 10.9.2.1; "
                 "ls /sys/class/net/eth1/queues | xargs echo queues"),
              HasSubstr("queues rx-0 rx-1 tx-0 tx-1\n"));
  // From the second processor, which has the second queue.
  Move(8, "taskset 2 ");
  const std::string sent = Do("cat /sys/class/net/eth1/statistics/tx_bytes");
  EXPECT_THAT(sent, ContainsRegex("\n[0-9]{7,}\n"));
}

void DevicesTest::SocketsMoveDataBothWaysFromBothSides() {
  // The guest's own connection moves all of it each way; the host's, which
  // takes the same path once it stands, a part.
  const std::string size = absl::StrCat(MiB());
  const std::string part = absl::StrCat(MiB() / 8);
  ASSERT_OK_AND_ASSIGN(
      auto server,
      GuestProcess::Start(
          {kTool, "serve", absl::StrCat("unix:", path_, "_6000"), size, "8"}));
  ASSERT_OK(server->Expect("listening"));
  EXPECT_THAT(Do("net_guest refused vsock:2:7777"),
              HasSubstr("net_guest: refused: "));
  ASSERT_OK(guest_->Type(absl::StrCat("net_guest serve vsock:-1:5000 ", part,
                                      " 7 && net_guest move vsock:2:6000 ",
                                      size, " 8\n")));
  ASSERT_OK(guest_->Expect("listening", kPatience));
  ASSERT_OK_AND_ASSIGN(
      auto client,
      GuestProcess::Start(
          {kTool, "move", absl::StrCat("hybrid:", path_, ":5000"), part, "7"}));
  EXPECT_THAT(client->Wait(kPatience), IsOkAndHolds(0)) << client->output();
  ASSERT_OK(guest_->Expect(absl::StrCat("served ", part, " MiB"), kPatience));
  ASSERT_OK(guest_->Expect(absl::StrCat("moved ", size, " MiB"), kPatience));
  ASSERT_OK(guest_->Expect("ended with 0.", kPatience));
  EXPECT_THAT(server->Wait(kPatience), IsOkAndHolds(0)) << server->output();
}

// Linux's driver does without VIRTIO_F_ACCESS_PLATFORM, which its own kernel
// then insists on in a confidential guest: nothing else comes of it.
void DevicesTest::TheBalloonTakesWhatItIsAskedTo() {
  if (!Confidential()) {
    EXPECT_THAT(Do("until grep 'balloon_inflate 8192' /proc/vmstat; "
                   "do sleep 1; done"),
                HasSubstr("\nballoon_inflate 8192\n"));
    EXPECT_TRUE(Eventually(
        [this] { return Count("balloon", "actual_bytes") == 32 << 20; }));
    EXPECT_EQ(Count("balloon", "inflated_pages"), 8192u);
    TheGuestTellsOfItsMemory();
    TheHostHasBackWhatTheGuestFreed();
    return;
  }
  const std::string said =
      Do("dmesg | grep -o 'provide VIRTIO_F_ACCESS_PLATFO.*'; "
         "grep balloon_inflate /proc/vmstat");
  EXPECT_THAT(said, HasSubstr("provide VIRTIO_F_ACCESS_PLATFORM"));
  EXPECT_THAT(said, HasSubstr("balloon_inflate 0\n"));
  EXPECT_EQ(Count("balloon", "inflated_pages"), 0u);
}

void DevicesTest::TheGuestTellsOfItsMemory() {
  // The driver's first buffer comes unasked.
  EXPECT_TRUE(
      Eventually([this] { return Count("balloon", "stats_updates") > 1; }));
  const json said = Get("/balloon/statistics");
  EXPECT_GT(said["total_memory"], 128 << 20) << said.dump();
  EXPECT_LE(said["total_memory"], (256 - 32) << 20) << said.dump();
  EXPECT_GT(said["free_memory"], 0) << said.dump();
  EXPECT_LT(said["free_memory"], said["total_memory"]) << said.dump();
}

// Linux reports free blocks of 2 MiB, so that a part of a file may be missing.
// The machine's free memory, since neither the monitor's pages nor the blocks
// of a guest_memfd count what the guest alone has touched.
void DevicesTest::TheHostHasBackWhatTheGuestFreed() {
  constexpr uint64_t kMost = 32 << 20;
  EXPECT_THAT(Do("dd if=/dev/zero of=/run/file bs=1M count=48 2>/dev/null"),
              HasSubstr("ended with 0"));
  const uint64_t free = FreeBytes();
  const uint64_t reported = Count("balloon", "reported_bytes");
  EXPECT_THAT(Do("rm /run/file"), HasSubstr("ended with 0"));
  EXPECT_TRUE(Eventually(
      [&] { return Count("balloon", "reported_bytes") >= reported + kMost; }));
  // The host's other uses come and go.
  EXPECT_TRUE(Eventually([&] { return FreeBytes() >= free + kMost / 2; }));
  EXPECT_EQ(Count("balloon", "refused_pages"), 0u);
  EXPECT_EQ(Count("balloon", "errors"), 0u);
}

void DevicesTest::WhatIsInUseHasOneUser() {
  EXPECT_THAT(Refusal(network_, {"--net", "tap=tap0"}),
              HasSubstr("tap tap0 is in use by another program"));
  EXPECT_THAT(Refusal(network_, {"--vsock", absl::StrCat("path=", path_)}),
              HasSubstr(path_ + " is in use"));
}

void DevicesTest::ATapThatGoesAwayIsALinkThatIsDown() {
  EXPECT_THAT(Do("ping -c 1 10.9.0.1; cat /sys/class/net/eth0/carrier"),
              HasSubstr("\n1\n"));
  Sh(absl::StrCat("ip -n ", network_.monitor(), " link del tap0"));
  EXPECT_THAT(Do("ping -c 2 -i 0.2 -W 1 10.9.0.1 || echo not there"),
              HasSubstr("\nnot there\n"));
  EXPECT_THAT(Do("cat /sys/class/net/eth0/carrier"), HasSubstr("\n0\n"));
  // And outside; the other card has lost nothing.
  EXPECT_EQ(Count("net_net0", "link_down"), 1u);
  EXPECT_EQ(Count("net_net0", "link_up"), 0u);
  EXPECT_GT(Count("net_net0", "tap_errors"), 0u);
  EXPECT_EQ(Count("net_net1", "link_down"), 0u);
  EXPECT_EQ(Count("net_net1", "link_up"), 1u);
  EXPECT_EQ(Count("net_net1", "tap_errors"), 0u);
}

TEST_P(DevicesTest, OneGuestWithAllOfThem) {
  ASSERT_NO_FATAL_FAILURE(Start(
      2,
      {"--net", "tap=tap0,mac=52:54:00:aa:bb:cc", "--net", "tap=tap1,queues=2",
       "--rng", "--balloon", "target=32M,reporting,stats=1", "--vsock",
       absl::StrCat("cid=5,path=", path_), "--api-sock", api_}));
  TheGuestReadsTheHostsBytes();
  PingsAndMovesDataThroughATap();
  SeveralQueuesMoveDataToo();
  WhileTheOtherCardComesAndGoes(
      [this] { SocketsMoveDataBothWaysFromBothSides(); });
  NoLeaseIsLeft();
  TheBalloonTakesWhatItIsAskedTo();
  WhatIsInUseHasOneUser();
  ATapThatGoesAwayIsALinkThatIsDown();
  Leave();
}

INSTANTIATE_TEST_SUITE_P(Backends, DevicesTest,
                         ::testing::Values("off", "sw-protected"), BackendName);

// A folder with the files that the page names, which a user who is not root may
// read, and the devices as a distribution's udev makes them.
class PageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/run/page-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    Sh(absl::StrCat("chmod 755 ", folder_, "; install -m 755 ", kCloister, " ",
                    folder_, "/cloister; install -m 644 ",
                    GuestFile("TINY", "KERNEL"), " ", folder_,
                    "/vmlinuz; install -m 644 ", GuestFile("TINY", "INITRAMFS"),
                    " ", folder_, "/initrd; chmod 666 /dev/kvm /dev/net/tun"));
  }
  void TearDown() override {
    Sh(absl::StrCat("rm -r ", folder_, "; chmod 600 /dev/kvm /dev/net/tun"));
  }

  // The block in a shell of root, who was `nobody` before sudo.
  void AsRoot(const std::string& block) {
    Sh(absl::StrCat("export SUDO_USER=nobody; ip netns exec ",
                    network_.monitor(), " sh -eu <<'END'\n", block, "END\n"));
  }

  Network network_;
  std::string folder_;
};

TEST_F(PageTest, AddressTranslationWorksAsPrinted) {
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> blocks,
                       DocBlocks("docs/networking.md",
                                 "## A tap with network address translation"));
  ASSERT_THAT(blocks, SizeIs(4));
  // Nothing is done yet that the page says to do, and a packet that comes from
  // the guest's own address is never answered.
  Sh(absl::StrCat("ip netns exec ", network_.monitor(),
                  " sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'; ip -n ",
                  network_.peer(), " route del default"));
  AsRoot(blocks[0]);
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      GuestProcess::Start(
          {"ip", "netns", "exec", network_.monitor(), "setpriv",
           "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-euc",
           absl::StrCat("cd ", folder_, "; PATH=$PWD:$PATH\n", blocks[1])}));
  ASSERT_OK(guest->Expect("leave this shell to power off", kPatience));
  for (const std::string& command : SplitCommands(blocks[2])) {
    ASSERT_OK(guest->Type(absl::StrCat(command, "; echo ended $?.\n")));
    ASSERT_OK(guest->Expect("ended 0.", kPatience)) << command;
  }
  ASSERT_OK(guest->Type("ping -c 3 10.9.1.2\nexit\n"));
  EXPECT_OK(guest->Expect("3 packets received", kPatience));
  EXPECT_THAT(guest->Wait(kPatience), IsOkAndHolds(0)) << guest->output();
  AsRoot(blocks[3]);
  AsRoot("[ -z \"$(nft list ruleset)\" ]\n! ip link show cloister0\n");
}

TEST(BadInputTest, NamesADeviceThatCannotBeHad) {
  Network network;
  auto net = [&](const char* value) {
    return Refusal(network, {"--net", value});
  };
  EXPECT_THAT(net("tap=nosuch"), HasSubstr("tap nosuch does not exist"));
  EXPECT_THAT(net("tap=eth0"), HasSubstr("eth0 is not a tap"));
  EXPECT_THAT(net("tap=tap0,mac=01:00:00:00:00:01"), HasSubstr("multicast"));
  EXPECT_THAT(net("tap=tap0,queues=2"), HasSubstr("multi_queue"));
  EXPECT_THAT(net("fd=0"), HasSubstr("not an attached tap"));

  // A path that another program's socket has.
  const std::string path = absl::StrCat("/run/used-", getpid());
  ASSERT_OK_AND_ASSIGN(
      auto server,
      GuestProcess::Start(
          {kTool, "serve", absl::StrCat("unix:", path), "1", "1"}));
  ASSERT_OK(server->Expect("listening"));
  EXPECT_THAT(Refusal(network, {"--vsock", absl::StrCat("path=", path)}),
              HasSubstr(path + " is in use"));
  Sh(absl::StrCat("rm ", path));
}

}  // namespace
}  // namespace cloister::tests
