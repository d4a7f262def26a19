// SPDX-License-Identifier: Apache-2.0
// Requests that come while others wait or run.
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
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

}  // namespace
}  // namespace cloister::api
