// SPDX-License-Identifier: Apache-2.0
//
// Taps of the kernel, in a network namespace of the test's own.
#include "cloister/devices/virtio/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/net_header.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

using base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class TapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Of the thread, and so of this program, which has only one.
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 &&
        ::unshare(CLONE_NEWNET) < 0) {
      GTEST_SKIP() << "no network namespace of one's own: "
                   << std::strerror(errno);
    }
    base::UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!tun.valid()) {
      GTEST_SKIP() << "/dev/net/tun: " << std::strerror(errno);
    }
  }

  // A tap that stays when nothing is attached to it.
  void MakeTap(const char* name, int flags) {
    base::UniqueFd fd = AttachRaw(name, flags);
    ASSERT_EQ(::ioctl(fd.get(), TUNSETPERSIST, 1), 0) << std::strerror(errno);
  }
  base::UniqueFd AttachRaw(const char* name, int flags) {
    base::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    struct ifreq request = {};
    std::strcpy(request.ifr_name, name);
    request.ifr_flags = static_cast<short>(flags);
    EXPECT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0)
        << std::strerror(errno);
    return fd;
  }
  void SetUp(const char* name) {
    base::UniqueFd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq request = {};
    std::strcpy(request.ifr_name, name);
    ASSERT_EQ(::ioctl(any.get(), SIOCGIFFLAGS, &request), 0);
    request.ifr_flags |= IFF_UP;
    ASSERT_EQ(::ioctl(any.get(), SIOCSIFFLAGS, &request), 0);
  }
  static constexpr int kTap = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
};

TEST_F(TapTest, AttachesToATapThatIsThere) {
  MakeTap("t0", IFF_TAP | IFF_NO_PI);
  ASSERT_OK_AND_ASSIGN(auto taps, Tap::Open("t0", 1));
  ASSERT_EQ(taps.size(), 1u);
  EXPECT_EQ(taps[0]->name(), "t0");
  EXPECT_EQ(::fcntl(taps[0]->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  int size = 0;
  ASSERT_EQ(::ioctl(taps[0]->fd(), TUNGETVNETHDRSZ, &size), 0);
  EXPECT_EQ(size, static_cast<int>(NetHeader::kSize));
  NetOffloads all;
  all.checksum = all.tso4 = all.tso6 = all.ecn = all.ufo = true;
  EXPECT_OK(taps[0]->SetOffloads(all));
  EXPECT_OK(taps[0]->SetOffloads({}));
  EXPECT_FALSE(taps[0]->IsGone());
}

TEST_F(TapTest, NeverMakesOne) {
  EXPECT_THAT(Tap::Open("nosuch", 1),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("tap nosuch does not exist")));
  EXPECT_EQ(::if_nametoindex("nosuch"), 0u);
}

TEST_F(TapTest, SaysWhoHasIt) {
  MakeTap("t0", kTap);
  ASSERT_OK_AND_ASSIGN(auto taps, Tap::Open("t0", 1));
  EXPECT_THAT(Tap::Open("t0", 1), StatusIs(absl::StatusCode::kUnavailable,
                                           HasSubstr("t0 is in use")));
}

TEST_F(TapTest, RefusesOtherInterfacesAndNames) {
  MakeTap("tun0", IFF_TUN);
  for (const char* name : {"tun0", "lo"}) {
    EXPECT_THAT(Tap::Open(name, 1),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(name), HasSubstr("not a tap"))));
  }
  for (const char* name : {"", "a/b", "..", "t%d", "a b", "sixteen-letters-"}) {
    EXPECT_THAT(Tap::Open(name, 1),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("is not the name of an interface")));
  }
}

TEST_F(TapTest, OpensSeveralQueuesOfOneThatHasThem) {
  MakeTap("mq", kTap | IFF_MULTI_QUEUE);
  MakeTap("sq", kTap);
  {
    ASSERT_OK_AND_ASSIGN(auto taps, Tap::Open("mq", 3));
    ASSERT_EQ(taps.size(), 3u);
    EXPECT_OK(taps[2]->SetEnabled(false));
    EXPECT_OK(taps[2]->SetEnabled(false));
    EXPECT_OK(taps[2]->SetEnabled(true));
  }
  EXPECT_OK(Tap::Open("mq", 1));
  EXPECT_THAT(Tap::Open("sq", 2), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("multi_queue")));
  EXPECT_THAT(Tap::Open("mq", Tap::kMaxQueues + 1),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(TapTest, TakesOverADescriptorThatIsATap) {
  MakeTap("t0", kTap);
  base::UniqueFd fd = AttachRaw("t0", kTap);
  ASSERT_EQ(::fcntl(fd.get(), F_SETFD, 0), 0);
  ASSERT_OK_AND_ASSIGN(auto tap, Tap::FromFd(std::move(fd)));
  EXPECT_EQ(tap->name(), "t0");
  EXPECT_EQ(::fcntl(tap->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_NE(::fcntl(tap->fd(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(TapTest, RefusesDescriptorsOfOtherThings) {
  MakeTap("plain", IFF_TAP | IFF_NO_PI);
  EXPECT_THAT(Tap::FromFd(AttachRaw("plain", IFF_TAP | IFF_NO_PI)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("not a tap with IFF_VNET_HDR")));
  MakeTap("tun0", IFF_TUN | IFF_VNET_HDR);
  EXPECT_THAT(Tap::FromFd(AttachRaw("tun0", IFF_TUN | IFF_VNET_HDR)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  for (const char* path : {"/dev/null", "/dev/net/tun"}) {
    base::UniqueFd fd(::open(path, O_RDWR | O_CLOEXEC));
    EXPECT_THAT(Tap::FromFd(std::move(fd)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("not an attached tap")));
  }
  EXPECT_FALSE(Tap::FromFd(base::UniqueFd()).ok());
}

TEST_F(TapTest, MovesPacketsAndNoticesTheEnd) {
  base::UniqueFd keeper = AttachRaw("t0", kTap | IFF_MULTI_QUEUE);
  SetUp("t0");
  ASSERT_OK_AND_ASSIGN(auto taps, Tap::Open("t0", 1));
  Tap& tap = *taps[0];
  // A broadcast from nobody: the kernel takes it.
  std::array<uint8_t, NetHeader::kSize + 60> packet = {};
  std::fill_n(packet.begin() + NetHeader::kSize, 6, 0xff);
  packet[NetHeader::kSize + 6] = 2;
  const struct iovec from = {packet.data(), packet.size()};
  EXPECT_EQ(tap.Send({&from, 1}), static_cast<ssize_t>(packet.size()));
  // What the kernel says on a new link (router solicitations, say) comes, or
  // nothing does.
  std::array<uint8_t, 4096> buffer;
  const struct iovec to = {buffer.data(), buffer.size()};
  ssize_t got;
  while ((got = tap.Receive({&to, 1})) >= 0) {
    EXPECT_GE(got, static_cast<ssize_t>(NetHeader::kSize + kNetMinPacket));
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_FALSE(tap.IsGone());
}

}  // namespace
}  // namespace cloister::devices::virtio
