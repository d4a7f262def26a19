// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/device_update.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using devices::TokenBucketConfig;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::Optional;

// Keeps what it was asked for.
class FakeControl : public vmm::DeviceControl {
 public:
  absl::Status UpdateDisk(absl::string_view id,
                          const vmm::DiskUpdate& update) override {
    asked_id = std::string(id);
    disk = update;
    return answer;
  }
  absl::Status UpdateNet(absl::string_view id,
                         const vmm::NetUpdate& update) override {
    asked_id = std::string(id);
    net = update;
    return answer;
  }
  absl::Status SetBalloonTarget(uint64_t bytes) override {
    if (!balloon.has_value()) return absl::NotFoundError("no balloon");
    balloon->target = bytes;
    return answer;
  }
  absl::Status SetBalloonStatsInterval(seconds interval) override {
    balloon->stats_interval = interval;
    return answer;
  }
  absl::StatusOr<vmm::BalloonStatus> Balloon() const override {
    if (!balloon.has_value()) return absl::NotFoundError("no balloon");
    return *balloon;
  }

  absl::Status answer;
  std::string asked_id;
  vmm::DiskUpdate disk;
  vmm::NetUpdate net;
  std::optional<vmm::BalloonStatus> balloon;
};

class DeviceUpdateTest : public ::testing::Test {
 protected:
  absl::Status Update(DeviceKind kind, absl::string_view id,
                      const char* change) {
    return UpdateDevice(control_, kind, id, Json::parse(change));
  }
  FakeControl control_;
};

TEST_F(DeviceUpdateTest, ADriveGetsWhatTheBodyNames) {
  EXPECT_OK(Update(DeviceKind::kDrive, "root",
                   R"({"drive_id":"root","path_on_host":"/new"})"));
  EXPECT_EQ(control_.asked_id, "root");
  EXPECT_THAT(control_.disk.path, Optional(std::string("/new")));
  EXPECT_FALSE(control_.disk.limit.bandwidth.has_value());
  EXPECT_FALSE(control_.disk.limit.operations.has_value());
  EXPECT_OK(Update(DeviceKind::kDrive, "root",
                   R"({"drive_id":"root","rate_limiter":{
                       "bandwidth":{"size":9,"refill_time":8,
                                    "one_time_burst":7},
                       "ops":{"size":9,"refill_time":0}}})"));
  EXPECT_FALSE(control_.disk.path.has_value());
  EXPECT_THAT(control_.disk.limit.bandwidth,
              Optional(TokenBucketConfig{9, 7, milliseconds(8)}));
  // There, and no limit: what was is taken away.
  EXPECT_THAT(control_.disk.limit.operations, Optional(TokenBucketConfig()));
}

TEST_F(DeviceUpdateTest, ErrorsOfTheDeviceComeBack) {
  control_.answer = absl::NotFoundError("there is no drive x");
  EXPECT_THAT(Update(DeviceKind::kDrive, "x", R"({"drive_id":"x"})"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("drive x")));
  EXPECT_THAT(Update(DeviceKind::kNetwork, "x", R"({"iface_id":"x"})"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(DeviceUpdateTest, AnInterfaceHasALimitPerDirection) {
  EXPECT_OK(Update(DeviceKind::kNetwork, "eth0",
                   R"({"iface_id":"eth0","tx_rate_limiter":{
                       "ops":{"size":5,"refill_time":4}}})"));
  EXPECT_EQ(control_.asked_id, "eth0");
  EXPECT_FALSE(control_.net.rx_limit.bandwidth.has_value());
  EXPECT_FALSE(control_.net.rx_limit.operations.has_value());
  EXPECT_FALSE(control_.net.tx_limit.bandwidth.has_value());
  EXPECT_THAT(control_.net.tx_limit.operations,
              Optional(TokenBucketConfig{5, 0, milliseconds(4)}));
  EXPECT_OK(Update(DeviceKind::kNetwork, "eth0",
                   R"({"iface_id":"eth0","rx_rate_limiter":{
                       "bandwidth":{"size":5,"refill_time":4}}})"));
  EXPECT_TRUE(control_.net.rx_limit.bandwidth.has_value());
  EXPECT_FALSE(control_.net.tx_limit.operations.has_value());
}

TEST_F(DeviceUpdateTest, TheBalloonIsAskedInMib) {
  EXPECT_THAT(Update(DeviceKind::kBalloon, "", R"({"amount_mib":3})"),
              StatusIs(absl::StatusCode::kNotFound));
  control_.balloon.emplace();
  EXPECT_OK(Update(DeviceKind::kBalloon, "", R"({"amount_mib":16777216})"));
  EXPECT_EQ(control_.balloon->target, uint64_t{16} << 40);
}

TEST_F(DeviceUpdateTest, StatisticsStayOnOrOff) {
  control_.balloon.emplace();
  const char* on = R"({"stats_polling_interval_s":4})";
  const char* off = R"({"stats_polling_interval_s":0})";
  EXPECT_THAT(
      Update(DeviceKind::kBalloonStatistics, "", on),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("turned on")));
  EXPECT_OK(Update(DeviceKind::kBalloonStatistics, "", off));
  EXPECT_THAT(BalloonStatisticsJson(control_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("stats_polling_interval_s")));
  control_.balloon->stats_interval = seconds(1);
  EXPECT_THAT(
      Update(DeviceKind::kBalloonStatistics, "", off),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("turned off")));
  EXPECT_OK(Update(DeviceKind::kBalloonStatistics, "", on));
  EXPECT_EQ(control_.balloon->stats_interval, seconds(4));
}

TEST_F(DeviceUpdateTest, StatisticsHaveWhatTheGuestSaid) {
  EXPECT_THAT(BalloonStatisticsJson(control_),
              StatusIs(absl::StatusCode::kNotFound));
  control_.balloon = vmm::BalloonStatus{.target = 3 << 20,
                                        .actual = 1 << 20,
                                        .stats_interval = seconds(1),
                                        .guest = {{"free_memory", 77}}};
  ASSERT_OK_AND_ASSIGN(Json json, BalloonStatisticsJson(control_));
  EXPECT_EQ(json, Json({{"target_pages", 768},
                        {"actual_pages", 256},
                        {"target_mib", 3},
                        {"actual_mib", 1},
                        {"free_memory", 77}}));
}

}  // namespace
}  // namespace cloister::api
