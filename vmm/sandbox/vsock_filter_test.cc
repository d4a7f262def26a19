// SPDX-License-Identifier: Apache-2.0
//
// A vsock device whose thread has the filter of such threads, in what the
// guest's end of a connection leads to.
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "cloister/base/status_matchers.h"
#include "cloister/devices/virtio/eventually.h"
#include "cloister/devices/virtio/vsock_connection.h"
#include "cloister/devices/virtio/vsock_fixture.h"
#include "cloister/devices/virtio/vsock_packet.h"
#include "cloister/vmm/sandbox/seccomp_filter.h"
#include "cloister/vmm/sandbox/seccomp_rules.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using devices::virtio::Eventually;
using devices::virtio::Peer;
using devices::virtio::VsockConnection;
using devices::virtio::VsockHeader;
using devices::virtio::VsockOp;

class VsockFilterTest : public devices::virtio::VsockTest {
 protected:
  void SetUp() override {
    VsockTest::SetUp();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's runtime makes calls of its own";
#endif
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    auto filter = SeccompFilter::Build(ThreadKind::kDevice,
                                       SeccompRules({.process = ::getpid()}));
    ASSERT_OK(filter);
    // What it refuses ends this process.
    on_thread_start_ = [filter = *std::move(filter)] {
      EXPECT_OK(filter.Install());
    };
  }
  // The guest leaves so much that its host has to be waited for.
  void LeaveMuch(VsockOp op, uint32_t flags) {
    options_.drain.idle = std::chrono::milliseconds(20);
    Make();
    Peer peer = OpenFromGuest();
    const std::string piece(32768, 'x');
    for (size_t left = 0; left < VsockConnection::kBuffer;
         left += piece.size()) {
      ASSERT_OK(SendData(piece));
    }
    ASSERT_OK(SendOp(op, flags));
    EXPECT_EQ(peer.Read(1000).size(), 1000u);
    // It was asked how far it has got, and then was not waited for any more.
    EXPECT_TRUE(Eventually([&] { return counters().timeouts.value() > 0; }));
    EXPECT_FALSE(peer.Read(VsockConnection::kBuffer).empty());
  }
};

TEST_P(VsockFilterTest, AGuestThatEndsAConnection) {
  LeaveMuch(VsockOp::kShutdown, VsockHeader::kNoSend | VsockHeader::kNoReceive);
}

TEST_P(VsockFilterTest, AGuestThatForgetsAConnection) {
  LeaveMuch(VsockOp::kReset, 0);
}

TEST_P(VsockFilterTest, AHostsConnection) {
  Make();
  Peer peer = OpenFromHost();
  ASSERT_OK(SendData("to the host"));
  EXPECT_EQ(peer.Read(11), "to the host");
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockFilterTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace cloister::vmm
