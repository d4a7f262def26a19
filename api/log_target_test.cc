// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/log_target.h"

#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::LogLevel;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(LogTargetTest, LinesHaveTheirForm) {
  constexpr int64_t kTime = 1700000000123456;
  EXPECT_EQ(LogTarget::Format("vm", LogLevel::kInfo, "m", kTime, false, false),
            "2023-11-14T22:13:20.123456Z [vm] m\n");
  EXPECT_EQ(LogTarget::Format("vm", LogLevel::kError, "m", kTime, true, false),
            "2023-11-14T22:13:20.123456Z [vm:error] m\n");
  const Json json = Json::parse(LogTarget::Format(
      "vm", LogLevel::kWarning, "a \"b\"\n", kTime, true, true));
  EXPECT_EQ(json, Json({{"time", "2023-11-14T22:13:20.123456Z"},
                        {"level", "warning"},
                        {"id", "vm"},
                        {"message", "a \"b\"\n"}}));
}

TEST(LogTargetTest, WritesWhereItIsToldAndPublishesWarnings) {
  const std::string path = ::testing::TempDir() + "/log";
  ::unlink(path.c_str());
  EventHub events;
  auto listener = events.Subscribe([] {});
  LogTarget target("vm", &events);
  ASSERT_OK(target.Configure({{"log_path", path}, {"level", "Warning"}}));
  base::Logger log(target.Sink(), LogLevel::kDebug);
  log.Info("quiet");
  log.Warning("loud");
  ASSERT_OK(target.Configure({{"level", "Off"}}));
  log.Error("nothing");
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_THAT(text.str(), HasSubstr("[vm] loud\n"));
  EXPECT_THAT(text.str(), Not(HasSubstr("quiet")));
  EXPECT_THAT(text.str(), Not(HasSubstr("nothing")));
  const Json event = Json::parse(listener->Take(1 << 20));
  EXPECT_EQ(event["event"], "log");
  EXPECT_EQ(event["level"], "warning");
  EXPECT_EQ(event["message"], "loud");
}

TEST(LogTargetTest, KeepsItsFileIfTheNextCannotBeOpened) {
  LogTarget target("vm", nullptr);
  EXPECT_THAT(
      std::string(target.Configure({{"log_path", "/no/such/log"}}).message()),
      HasSubstr("log_path: open /no/such/log"));
}

}  // namespace
}  // namespace cloister::api
