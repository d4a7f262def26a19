// SPDX-License-Identifier: Apache-2.0
//
// Networks and sockets of real guests, in the lab: what a guest sends arrives
// as it was sent, through a tap and between network namespaces, and over vsock
// both ways; a tap that goes away is a link that is down.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCloister[] = "cli/cloister";
constexpr char kTool[] = "tests/virtio_net_guest";  // bin/net_guest in guests
constexpr std::chrono::seconds kPatience(800);

bool Soak() { return std::getenv("CLOISTER_SOAK") != nullptr; }
// What is moved each way.
int MiB() { return Soak() ? 1024 : 64; }

std::string GuestFile(const std::string& guest, const char* what) {
  const std::string name = absl::StrCat("CLOISTER_GUEST_", guest, "_", what);
  const char* path = std::getenv(name.c_str());
  return path == nullptr ? absl::StrCat("$", name, " is not set") : path;
}

// A shell command on the lab's host that must succeed.
void Sh(const std::string& command) {
  auto process = GuestProcess::Start({"sh", "-euc", command});
  ASSERT_OK(process);
  EXPECT_THAT((*process)->Wait(), IsOkAndHolds(0)) << command << "\n"
                                                   << (*process)->output();
}

// Two network namespaces joined by a cable: the monitor's, with a tap and a
// router, and a peer's. The guest is to be 10.9.0.2, the peer is 10.9.1.2.
class Network {
 public:
  explicit Network(const std::string& tap_options = "")
      : monitor_(absl::StrCat("monitor", getpid())),
        peer_(absl::StrCat("peer", getpid())) {
    Sh(absl::StrCat("ip netns add ", monitor_, "; ip netns add ", peer_,  //
                    "; ip -n ", monitor_,
                    " link add cable type veth peer name cable netns ",
                    peer_,                                                    //
                    "; ip -n ", monitor_, " addr add 10.9.1.1/24 dev cable",  //
                    "; ip -n ", monitor_, " link set cable up",               //
                    "; ip -n ", peer_, " addr add 10.9.1.2/24 dev cable",     //
                    "; ip -n ", peer_, " link set cable up",                  //
                    "; ip -n ", peer_, " route add default via 10.9.1.1",     //
                    "; ip -n ", monitor_, " tuntap add dev tap0 mode tap ",
                    tap_options, "; ip -n ", monitor_,
                    " addr add 10.9.0.1/24 dev tap0",           //
                    "; ip -n ", monitor_, " link set tap0 up",  //
                    "; ip netns exec ", monitor_,
                    " sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'"));
  }
  ~Network() {
    Sh(absl::StrCat("ip netns del ", monitor_, "; ip netns del ", peer_));
  }

  const std::string& monitor() const { return monitor_; }
  absl::StatusOr<std::unique_ptr<GuestProcess>> AtPeer(
      std::vector<std::string> argv) const {
    argv.insert(argv.begin(), {"ip", "netns", "exec", peer_});
    return GuestProcess::Start(argv);
  }

 private:
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

constexpr char kUp[] =
    "ip link set lo up; ip addr add 10.9.0.2/24 dev eth0; "
    "ip link set eth0 up; ip route add default via 10.9.0.1; ";

class NetTest : public ::testing::TestWithParam<const char*> {};

TEST_P(NetTest, PingsAndMovesDataThroughATap) {
  Network network;
  ASSERT_OK_AND_ASSIGN(auto server,
                       network.AtPeer({kTool, "serve", "tcp:0.0.0.0:5000",
                                       absl::StrCat(MiB()), "7"}));
  ASSERT_OK(server->Expect("listening"));
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      Boot({.backend = GetParam(),
            .run = absl::StrCat(kUp,
                                "cat /sys/class/net/eth0/address; "
                                "ping -c 3 10.9.1.2 && net_guest move "
                                "tcp:10.9.1.2:5000 ",
                                MiB(), " 7"),
            .netns = network.monitor(),
            .more = {"--net", "tap=tap0,mac=52:54:00:aa:bb:cc"}}));
  ASSERT_OK(guest->Expect("52:54:00:aa:bb:cc")) << guest->output();
  ASSERT_OK(guest->Expect("3 packets received", kPatience));
  ASSERT_OK(
      guest->Expect(absl::StrCat("moved ", MiB(), " MiB each way"), kPatience));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(server->Wait(), IsOkAndHolds(0)) << server->output();
}

TEST_P(NetTest, ATapThatGoesAwayIsALinkThatIsDown) {
  Network network;
  ASSERT_OK_AND_ASSIGN(
      auto guest, Boot({.backend = GetParam(),
                        .run = absl::StrCat(
                            kUp,
                            "ping -c 1 10.9.0.1; echo carrier $(cat "
                            "/sys/class/net/eth0/carrier), pull; read line; "
                            "ping -c 3 -W 1 10.9.0.1 || echo unreachable; "
                            "echo carrier $(cat /sys/class/net/eth0/carrier)"),
                        .netns = network.monitor(),
                        .more = {"--net", "tap=tap0"}}));
  ASSERT_OK(guest->Expect("1 packets received"));
  ASSERT_OK(guest->Expect("carrier 1, pull"));
  Sh(absl::StrCat("ip -n ", network.monitor(), " link del tap0"));
  ASSERT_OK(guest->Type("\n"));
  ASSERT_OK(guest->Expect("unreachable"));
  ASSERT_OK(guest->Expect("carrier 0"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

TEST_P(NetTest, SeveralQueuesMoveDataToo) {
  Network network("multi_queue");
  ASSERT_OK_AND_ASSIGN(
      auto server,
      network.AtPeer({kTool, "serve", "tcp:0.0.0.0:5000", "16", "9"}));
  ASSERT_OK(server->Expect("listening"));
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      Boot({.backend = GetParam(),
            .cpus = 2,
            .run = absl::StrCat(kUp,
                                "echo queues $(ls /sys/class/net/eth0/queues); "
                                "taskset 2 net_guest move tcp:10.9.1.2:5000 16 "
                                "9"),
            .netns = network.monitor(),
            .more = {"--net", "tap=tap0,queues=2"}}));
  ASSERT_OK(guest->Expect("queues rx-0 rx-1 tx-0 tx-1"));
  ASSERT_OK(guest->Expect("moved 16 MiB each way", kPatience));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(server->Wait(), IsOkAndHolds(0)) << server->output();
}

INSTANTIATE_TEST_SUITE_P(Backends, NetTest,
                         ::testing::Values("off", "sw-protected"),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param) == "off"
                                      ? "off"
                                      : "sw_protected";
                         });

class SocketTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    char folder[] = "/run/vsock-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/v";
  }
  void TearDown() override {
    // The monitor's socket is gone, and what the test made.
    Sh(absl::StrCat("rm -f ", path_, "_6000; rmdir ", folder_));
  }
  std::string folder_, path_;
};

TEST_P(SocketTest, MovesDataBothWaysFromBothSides) {
  const std::string size = absl::StrCat(MiB());
  ASSERT_OK_AND_ASSIGN(
      auto server,
      GuestProcess::Start(
          {kTool, "serve", absl::StrCat("unix:", path_, "_6000"), size, "8"}));
  ASSERT_OK(server->Expect("listening"));
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      Boot({.backend = GetParam(),
            .run = absl::StrCat("net_guest refused vsock:2:7777; "
                                "net_guest serve vsock:-1:5000 ",
                                size, " 7 && net_guest move vsock:2:6000 ",
                                size, " 8"),
            .more = {"--vsock", absl::StrCat("cid=5,path=", path_)}}));
  ASSERT_OK(guest->Expect("net_guest: refused: "));
  ASSERT_OK(guest->Expect("listening"));
  ASSERT_OK_AND_ASSIGN(
      auto client,
      GuestProcess::Start(
          {kTool, "move", absl::StrCat("hybrid:", path_, ":5000"), size, "7"}));
  EXPECT_THAT(client->Wait(kPatience), IsOkAndHolds(0)) << client->output();
  ASSERT_OK(guest->Expect(absl::StrCat("served ", size, " MiB"), kPatience));
  ASSERT_OK(guest->Expect(absl::StrCat("moved ", size, " MiB"), kPatience));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(server->Wait(), IsOkAndHolds(0)) << server->output();
}

TEST_P(SocketTest, NamesAPathThatIsInUse) {
  ASSERT_OK_AND_ASSIGN(
      auto server,
      GuestProcess::Start(
          {kTool, "serve", absl::StrCat("unix:", path_), "1", "1"}));
  ASSERT_OK(server->Expect("listening"));
  ASSERT_OK_AND_ASSIGN(
      auto guest, Boot({.backend = GetParam(),
                        .run = "true",
                        .more = {"--vsock", absl::StrCat("path=", path_)}}));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(::testing::Ne(0)));
  EXPECT_THAT(guest->output(), HasSubstr(path_ + " is in use"));
  EXPECT_THAT(guest->output(), Not(HasSubstr("cloister guest")));
  Sh(absl::StrCat("rm ", path_));
}

INSTANTIATE_TEST_SUITE_P(Backends, SocketTest,
                         ::testing::Values("off", "sw-protected"),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param) == "off"
                                      ? "off"
                                      : "sw_protected";
                         });

class EntropyTest : public ::testing::TestWithParam<const char*> {};

TEST_P(EntropyTest, TheGuestReadsTheHostsBytes) {
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      Boot({.backend = GetParam(),
            .run = "cat /sys/class/misc/hw_random/rng_current; "
                   "echo $(dd if=/dev/hwrng bs=64 count=16 2>/dev/null | wc "
                   "-c) bytes",
            .more = {"--rng"}}));
  ASSERT_OK(guest->Expect("virtio_rng.0"));
  ASSERT_OK(guest->Expect("1024 bytes"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

INSTANTIATE_TEST_SUITE_P(Backends, EntropyTest,
                         ::testing::Values("off", "sw-protected"),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param) == "off"
                                      ? "off"
                                      : "sw_protected";
                         });

TEST(BalloonTest, TakesWhatItIsAskedTo) {
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      Boot({.run = "until grep -q 'balloon_inflate 8192' /proc/vmstat; "
                   "do sleep 1; done; echo inflated",
            .more = {"--balloon", "target=32M,reporting"}}));
  ASSERT_OK(guest->Expect("inflated"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

// Linux's driver does without VIRTIO_F_ACCESS_PLATFORM, which its own kernel
// then insists on: nothing else comes of it.
TEST(BalloonTest, AConfidentialGuestGoesOnWithoutOne) {
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      Boot({.backend = "sw-protected",
            .run = "dmesg | grep -o 'must provide VIRTIO_F_ACCESS_PLATFORM'; "
                   "grep balloon_inflate /proc/vmstat; echo went on",
            .more = {"--balloon", "target=32M"}}));
  ASSERT_OK(guest->Expect("must provide VIRTIO_F_ACCESS_PLATFORM"));
  ASSERT_OK(guest->Expect("balloon_inflate 0"));
  ASSERT_OK(guest->Expect("went on"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

// What a monitor says about a tap that it cannot have, before anything boots.
std::string Refusal(const Network& network, const std::string& net) {
  auto guest =
      Boot({.run = "true", .netns = network.monitor(), .more = {"--net", net}});
  EXPECT_OK(guest);
  EXPECT_THAT((*guest)->Wait(), IsOkAndHolds(::testing::Ne(0)));
  EXPECT_THAT((*guest)->output(), Not(HasSubstr("cloister guest")));
  return (*guest)->output();
}

TEST(NetBadInputTest, NamesATapThatCannotBeHad) {
  Network network;
  EXPECT_THAT(Refusal(network, "tap=nosuch"),
              HasSubstr("tap nosuch does not exist"));
  EXPECT_THAT(Refusal(network, "tap=cable"), HasSubstr("cable is not a tap"));
  EXPECT_THAT(Refusal(network, "tap=tap0,mac=01:00:00:00:00:01"),
              HasSubstr("multicast"));
  EXPECT_THAT(Refusal(network, "tap=tap0,queues=2"), HasSubstr("multi_queue"));
  EXPECT_THAT(Refusal(network, "fd=0"), HasSubstr("not an attached tap"));
  ASSERT_OK_AND_ASSIGN(auto holder, Boot({.run = "echo held; read line",
                                          .netns = network.monitor(),
                                          .more = {"--net", "tap=tap0"}}));
  ASSERT_OK(holder->Expect("held"));
  EXPECT_THAT(Refusal(network, "tap=tap0"),
              HasSubstr("tap tap0 is in use by another program"));
}

}  // namespace
}  // namespace cloister::tests
