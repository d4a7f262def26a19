// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/tcp_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/status/status.h"
#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

TEST(TcpAddressTest, ReadsBothFamilies) {
  ASSERT_OK_AND_ASSIGN(TcpAddress v4, ParseTcpAddress("127.3.2.1:8080"));
  ASSERT_EQ(v4.size, sizeof(sockaddr_in));
  const auto* in = reinterpret_cast<const sockaddr_in*>(v4.raw());
  EXPECT_EQ(in->sin_family, AF_INET);
  EXPECT_EQ(ntohl(in->sin_addr.s_addr), 0x7f030201u);
  EXPECT_EQ(ntohs(in->sin_port), 8080);
  ASSERT_OK_AND_ASSIGN(TcpAddress v6, ParseTcpAddress("[::1]:0"));
  ASSERT_EQ(v6.size, sizeof(sockaddr_in6));
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(v6.raw());
  EXPECT_EQ(in6->sin6_family, AF_INET6);
  EXPECT_EQ(in6->sin6_addr.s6_addr[15], 1);
  EXPECT_EQ(ntohs(in6->sin6_port), 0);
}

TEST(TcpAddressTest, KnowsLoopback) {
  for (const char* text : {"127.0.0.1:1", "127.255.0.9:1", "[::1]:1"}) {
    EXPECT_TRUE(ParseTcpAddress(text)->IsLoopback()) << text;
  }
  for (const char* text : {"0.0.0.0:1", "10.0.0.1:1", "128.0.0.1:1", "[::]:1",
                           "[::2]:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_FALSE(ParseTcpAddress(text)->IsLoopback()) << text;
  }
}

TEST(TcpAddressTest, RefusesAllElse) {
  for (const char* text :
       {"", ":", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
        "127.0.0.1:0x50", "127.0.0.1:-1", "127.1:80", "localhost:80", "::1:80",
        "[::1:80", "::1]:80", "[127.0.0.1]:80", "[]:80"}) {
    EXPECT_EQ(ParseTcpAddress(text).status().code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
}

}  // namespace
}  // namespace cloister::api
