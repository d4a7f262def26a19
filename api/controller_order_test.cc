// SPDX-License-Identifier: Apache-2.0
// Requests that come while others wait or run.
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/api/controller_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ControllerTest, SlowRequestsDoNotHoldUpOthers) {
  Done("PUT", "/boot-source", kBoot);
  std::promise<void> entered, leave;
  machine_.hook = [&](absl::string_view call) {
    if (call == "start") {
      entered.set_value();
      leave.get_future().wait();
    }
    return absl::OkStatus();
  };
  std::future<HttpResponse> start = Begin("PUT", "/actions", kStart);
  entered.get_future().wait();
  EXPECT_EQ(Get("/")["state"], "Not started");
  EXPECT_THAT(Fault("PUT", "/actions", kStart), HasSubstr("being started"));
  EXPECT_THAT(Fault("PUT", "/boot-source", kBoot), HasSubstr("being started"));
  EXPECT_NE(start.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  leave.set_value();
  EXPECT_EQ(start.get().status, 204);
  EXPECT_EQ(Get("/")["state"], "Running");
}

TEST_F(ControllerTest, AFailedStartCanBeTriedAgain) {
  Done("PUT", "/boot-source", kBoot);
  machine_.hook = [](absl::string_view) {
    return absl::NotFoundError("/k: No such file");
  };
  EXPECT_EQ(Fault("PUT", "/actions", kStart), "/k: No such file");
  EXPECT_EQ(Get("/")["state"], "Not started");
  machine_.hook = nullptr;
  Done("PUT", "/actions", kStart);
}

TEST_F(ControllerTest, AStartThatTheQueueHasNoRoomForCanBeTriedAgain) {
  Done("PUT", "/boot-source", kBoot);
  WithFullQueue([&] {
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(Send("PUT", "/actions", kStart).status, 503);
    }
    Done("PUT", "/boot-source", kBoot);
  });
  Done("PUT", "/actions", kStart);
}

TEST_F(ControllerTest, APauseThatTheQueueHasNoRoomForCanBeTriedAgain) {
  StartVm();
  WithFullQueue([&] {
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(Send("PATCH", "/vm", "{\"state\":\"Paused\"}").status, 503);
    }
  });
  Done("PATCH", "/vm", "{\"state\":\"Paused\"}");
  Done("PATCH", "/vm", "{\"state\":\"Resumed\"}");
  EXPECT_THAT(machine_.calls(), ElementsAre("start", "pause", "resume"));
}

// Requests that wait for the worker in this order.
TEST_F(ControllerTest, FilesOfRequestsBeforeAStartAreOpenedAndNoted) {
  const std::string path = ::testing::TempDir() + "/before_start.json";
  const std::string metrics = absl::StrCat("{\"metrics_path\":\"", path, "\"}");
  Done("PUT", "/boot-source", kBoot);
  machine_.hook = [](absl::string_view) {
    return absl::NotFoundError("/k: No such file");
  };
  std::vector<std::future<HttpResponse>> answers;
  WithBusyWorker([&] {
    answers.push_back(
        Begin("PUT", "/metrics", "{\"metrics_path\":\"/nowhere/m\"}"));
    answers.push_back(Begin("PUT", "/metrics", metrics));
    answers.push_back(Begin("PUT", "/logger", "{\"log_path\":\"/l\"}"));
    answers.push_back(Begin("PUT", "/actions", kStart));
    // Refused before a file is opened.
    logger_.clear();
    EXPECT_THAT(Fault("PUT", "/logger", "{\"log_path\":\"/m\"}"),
                HasSubstr("being started"));
    EXPECT_EQ(logger_, "");
  });
  std::vector<int> seen;
  for (std::future<HttpResponse>& answer : answers) {
    seen.push_back(answer.get().status);
  }
  EXPECT_THAT(seen, ElementsAre(400, 204, 204, 400));
  EXPECT_THAT(logger_, HasSubstr("\"/l\""));
  const Json config = Get("/vm/config");
  ASSERT_TRUE(config.contains("metrics") && config.contains("logger"));
  EXPECT_EQ(config["metrics"]["metrics_path"], path);
  EXPECT_EQ(config["logger"]["log_path"], "/l");
  Done("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}");
}

TEST_F(ControllerTest, MetricsThatCouldNotBeOpenedCanBeTriedAfterAFailedStart) {
  Done("PUT", "/boot-source", kBoot);
  machine_.hook = [](absl::string_view) {
    return absl::NotFoundError("/k: No such file");
  };
  const std::string body = absl::StrCat(
      "{\"metrics_path\":\"", ::testing::TempDir(), "/retried.json\"}");
  std::future<HttpResponse> start, refused;
  WithBusyWorker([&] {
    start = Begin("PUT", "/actions", kStart);
    refused = Begin("PUT", "/metrics", body);
  });
  EXPECT_EQ(start.get().status, 400);
  EXPECT_EQ(refused.get().status, 400);
  Done("PUT", "/metrics", body);
  EXPECT_TRUE(Get("/vm/config").contains("metrics"));
}

TEST_F(ControllerTest, APolicyThatComesDuringAStartHoldsAfterIt) {
  Done("PUT", "/boot-source", kBoot);
  std::vector<std::future<HttpResponse>> answers;
  WithBusyWorker([&] {
    answers.push_back(Begin("PUT", "/actions", kStart));
    answers.push_back(Begin("PATCH", "/memory/policy", "{\"per_second\":5}"));
    answers.push_back(
        Begin("PATCH", "/memory/policy", "{\"exchange_windows\":[]}"));
  });
  EXPECT_EQ(answers[0].get().status, 204);
  EXPECT_EQ(answers[1].get().status, 204);
  EXPECT_THAT(answers[2].get().body,
              HasSubstr("only allowed before the VM is started"));
  EXPECT_THAT(machine_.calls(), ElementsAre("start", "policy count 5"));
  EXPECT_EQ(Get("/memory/policy")["per_second"], 5);
}

TEST_F(ControllerTest, APolicyThatComesDuringAFailedStartHoldsForTheNext) {
  Done("PUT", "/boot-source", kBoot);
  machine_.hook = [](absl::string_view) {
    return absl::NotFoundError("/k: No such file");
  };
  std::future<HttpResponse> start, policy;
  WithBusyWorker([&] {
    start = Begin("PUT", "/actions", kStart);
    policy = Begin("PATCH", "/memory/policy", "{\"per_second\":5}");
  });
  EXPECT_EQ(start.get().status, 400);
  EXPECT_EQ(policy.get().status, 204);
  EXPECT_THAT(machine_.calls(), ElementsAre("start"));
  EXPECT_EQ(Get("/memory/policy")["per_second"], 5);
}

}  // namespace
}  // namespace cloister::api
