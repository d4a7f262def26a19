// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/metrics_target.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

std::vector<Json> LinesOf(const std::string& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    lines.push_back(Json::parse(line, nullptr, false));
  }
  return lines;
}

TEST(MetricsTargetTest, NothingIsWrittenOrDueBeforeItIsOpen) {
  MetricsTarget target;
  EXPECT_FALSE(target.is_open());
  ApiCounters counters;
  MetricsSnapshot snapshot;
  snapshot.api = &counters;
  EXPECT_THAT(
      target.Write(snapshot),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("/metrics")));
  EXPECT_FALSE(
      target.IsDue(std::chrono::steady_clock::now() + std::chrono::hours(100)));
  EXPECT_THAT(target.Open({{"metrics_path", "/no/such/folder/file"}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("metrics_path: ")));
  EXPECT_FALSE(target.is_open());
}

TEST(MetricsTargetTest, LinesHaveWhatTheTargetAsksFor) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/lines");
  MetricsTarget target;
  ASSERT_OK(target.Open({{"metrics_path", path},
                         {"emit_id", true},
                         {"properties", {{"rack", "7"}}}}));
  EXPECT_TRUE(target.is_open());
  EXPECT_THAT(target.Open({{"metrics_path", path}}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("set already")));
  ApiCounters counters;
  counters.connections = 3;
  MetricsSnapshot snapshot;
  snapshot.id = "web";
  snapshot.api = &counters;
  ASSERT_OK(target.Write(snapshot));
  counters.connections = 5;
  ASSERT_OK(target.Write(snapshot));
  const std::vector<Json> lines = LinesOf(path);
  ASSERT_EQ(lines.size(), 2u);
  for (const Json& line : lines) {
    EXPECT_EQ(line["id"], "web");
    EXPECT_EQ(line["properties"]["rack"], "7");
    EXPECT_GT(line["utc_timestamp_ms"], 0);
  }
}

TEST(MetricsTargetTest, IsDueOnceAMinute) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/due");
  MetricsTarget target;
  ASSERT_OK(target.Open({{"metrics_path", path}}));
  const auto now = std::chrono::steady_clock::now();
  EXPECT_FALSE(target.IsDue(now));
  EXPECT_FALSE(target.IsDue(now + std::chrono::seconds(59)));
  EXPECT_TRUE(target.IsDue(now + std::chrono::seconds(61)));
  EXPECT_FALSE(target.IsDue(now + std::chrono::seconds(62)));
  EXPECT_TRUE(target.IsDue(now + std::chrono::seconds(121)));
}

TEST(MetricsTargetTest, AFullDeviceIsSaid) {
  MetricsTarget target;
  absl::Status opened = target.Open({{"metrics_path", "/dev/full"}});
  if (!opened.ok()) {
    // Neither a file nor a pipe: refused when it is opened.
    EXPECT_THAT(opened, StatusIs(absl::StatusCode::kInvalidArgument));
    return;
  }
  ApiCounters counters;
  MetricsSnapshot snapshot;
  snapshot.api = &counters;
  EXPECT_THAT(target.Write(snapshot), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace cloister::api
