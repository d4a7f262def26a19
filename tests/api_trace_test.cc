// SPDX-License-Identifier: Apache-2.0
//
// Replays testdata/firecracker_requests.json: one request or more for each
// operation and field of the API that Firecracker 1.17 describes in its swagger
// (src/firecracker/swagger/firecracker.yaml, Apache-2.0, Copyright Amazon.com),
// with the status that its clients expect. Our own words, their paths and
// names.
#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/api/controller.h"
#include "cloister/api/fake_machine.h"
#include "cloister/api/schema.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

class Replay {
 public:
  Replay() {
    ControllerOptions options;
    options.version = "0.0.0";
    controller_ = std::make_unique<Controller>(&machine_, &events_, &counters_,
                                               std::move(options));
  }
  HttpResponse Send(const Json& step) {
    auto promise = std::make_shared<std::promise<HttpResponse>>();
    std::future<HttpResponse> answer = promise->get_future();
    std::string body;
    if (step.contains("text")) body = step["text"].get<std::string>();
    if (step.contains("body")) {
      body = absl::StrReplaceAll(step["body"].dump(),
                                 {{"$TMP", ::testing::TempDir()}});
    }
    controller_->Handle({step["method"].get<std::string>(),
                         step["path"].get<std::string>(), body},
                        [promise](HttpResponse response) {
                          promise->set_value(std::move(response));
                        });
    if (answer.wait_for(std::chrono::seconds(30)) !=
        std::future_status::ready) {
      return Fault(599, "no answer");
    }
    return answer.get();
  }

 private:
  FakeMachine machine_;
  EventHub events_;
  ApiCounters counters_;
  std::unique_ptr<Controller> controller_;
};

// Every member of `expected` is in `actual`, with the same value.
void ExpectContains(const Json& actual, const Json& expected) {
  if (!expected.is_object()) {
    EXPECT_EQ(actual, expected);
    return;
  }
  for (const auto& [name, value] : expected.items()) {
    ASSERT_TRUE(actual.contains(name)) << name << " in " << actual.dump();
    ExpectContains(actual[name], value);
  }
}

TEST(ApiTraceTest, StatusesAndBodiesAgree) {
  std::ifstream file("tests/testdata/firecracker_requests.json");
  const Json trace = Json::parse(file, nullptr, false);
  ASSERT_TRUE(trace.is_object());
  std::set<std::string> seen;
  size_t steps = 0;
  for (const Json& scene : trace["scenes"]) {
    SCOPED_TRACE(scene["name"].get<std::string>());
    Replay replay;
    for (const Json& step : scene["steps"]) {
      SCOPED_TRACE(step.dump());
      ++steps;
      const HttpResponse response = replay.Send(step);
      EXPECT_EQ(response.status, step["status"].get<int>()) << response.body;
      seen.insert(step["operation"].get<std::string>());
      if (response.status == 204) {
        EXPECT_EQ(response.body, "");
      } else {
        const Json body = Json::parse(response.body, nullptr, false);
        ASSERT_TRUE(body.is_object()) << response.body;
        EXPECT_EQ(body.contains("fault_message"), response.status >= 400);
        if (step.contains("answer")) ExpectContains(body, step["answer"]);
      }
    }
  }
  EXPECT_GE(steps, 100u);
  // Nothing that Firecracker has is left out.
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.group == Group::kCloister) continue;
    EXPECT_EQ(seen.count(absl::StrCat(MethodName(endpoint.method), " ",
                                      endpoint.path)),
              1u)
        << endpoint.id;
  }
}

}  // namespace
}  // namespace cloister::api
