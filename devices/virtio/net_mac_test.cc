// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net_mac.h"

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"

namespace cloister::devices::virtio {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

TEST(NetMacTest, ParsesAndPrints) {
  ASSERT_OK_AND_ASSIGN(NetMac mac, NetMac::Parse("52:54:00:aB:0f:FE"));
  EXPECT_EQ(mac.ToString(), "52:54:00:ab:0f:fe");
}

TEST(NetMacTest, QuotesWhatItRefuses) {
  for (const char* text :
       {"", "52:54:00:12:34", "52:54:00:12:34:5g", "52-54-00-12-34-56",
        "52:54:00:12:34:+5", "52:54:00:12:34:0x", "52:54:00:12:34:56:78"}) {
    EXPECT_THAT(NetMac::Parse(text),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(std::string("mac \"") + text + "\"")));
  }
  EXPECT_THAT(
      NetMac::Parse("01:00:5e:00:00:01"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("multicast")));
  EXPECT_THAT(
      NetMac::Parse("00:00:00:00:00:00"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("zeroes")));
}

TEST(NetMacTest, MakesLocalUnicastOnes) {
  ASSERT_OK_AND_ASSIGN(NetMac one, NetMac::Random());
  ASSERT_OK_AND_ASSIGN(NetMac other, NetMac::Random());
  EXPECT_EQ(one.bytes()[0] & 3, 2);
  EXPECT_FALSE(one == other);
}

}  // namespace
}  // namespace cloister::devices::virtio
