// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/queue_error.h"

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "gtest/gtest.h"

namespace cloister::devices::virtio {
namespace {

TEST(QueueErrorTest, EveryReasonHasItsOwnNameAndSurvivesAStatus) {
  std::set<std::string> names;
  for (size_t i = 0; i < kQueueErrorCount; ++i) {
    const auto error = static_cast<QueueError>(i);
    names.insert(std::string(QueueErrorName(error)));
    const absl::Status status = MakeQueueError(error, "descriptor 3");
    EXPECT_EQ(QueueErrorOf(status), error);
    EXPECT_EQ(status.message(),
              std::string(QueueErrorName(error)) + ": descriptor 3");
  }
  EXPECT_EQ(names.size(), kQueueErrorCount);
  EXPECT_EQ(names.count(""), 0u);
}

TEST(QueueErrorTest, OtherErrorsCarryNoReason) {
  EXPECT_EQ(QueueErrorOf(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(QueueErrorOf(absl::InvalidArgumentError("x")), std::nullopt);
}

TEST(QueueErrorTest, AReasonThatThereIsNotIsNone) {
  constexpr char kUrl[] = "cloister/devices/virtio/queue_error";
  ASSERT_TRUE(
      MakeQueueError(QueueError::kLoop, "").GetPayload(kUrl).has_value());
  for (const char* reason : {"", "x", "-1", "13", "4294967296"}) {
    absl::Status status = absl::InternalError("x");
    status.SetPayload(kUrl, absl::Cord(reason));
    EXPECT_EQ(QueueErrorOf(status), std::nullopt) << reason;
  }
}

}  // namespace
}  // namespace cloister::devices::virtio
