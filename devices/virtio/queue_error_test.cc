// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/queue_error.h"

#include <set>
#include <string>

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

}  // namespace
}  // namespace cloister::devices::virtio
