// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CONTROLLER_FIXTURE_H_
#define CLOISTER_API_CONTROLLER_FIXTURE_H_

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cloister/api/controller.h"
#include "cloister/api/fake_machine.h"
#include "gtest/gtest.h"

namespace cloister::api {

inline constexpr char kBoot[] = "{\"kernel_image_path\":\"/k\"}";
inline constexpr char kStart[] = "{\"action_type\":\"InstanceStart\"}";

// A controller with a FakeMachine, and requests of it (test only).
class ControllerTest : public ::testing::Test {
 protected:
  ControllerTest() {
    ControllerOptions options;
    options.id = "vm7";
    options.version = "1.2.3";
    options.capabilities = [this] {
      ++capability_calls_;
      if (while_busy_) while_busy_();
      return std::string("{\"kvm\":{}}");
    };
    options.configure_log = [this](const Json& logger) {
      logger_ = JsonText(logger);
      return log_status_;
    };
    controller_ = std::make_unique<Controller>(&machine_, &events_, &counters_,
                                               std::move(options));
  }

  std::future<HttpResponse> Begin(const std::string& method,
                                  const std::string& target,
                                  const std::string& body = "") {
    auto promise = std::make_shared<std::promise<HttpResponse>>();
    controller_->Handle({method, target, body},
                        [promise](HttpResponse response) {
                          promise->set_value(std::move(response));
                        });
    return promise->get_future();
  }
  HttpResponse Send(const std::string& method, const std::string& target,
                    const std::string& body = "") {
    std::future<HttpResponse> answer = Begin(method, target, body);
    if (answer.wait_for(std::chrono::seconds(30)) !=
        std::future_status::ready) {
      ADD_FAILURE() << "no answer: " << method << " " << target;
      return {};
    }
    return answer.get();
  }
  Json Get(const std::string& target) {
    HttpResponse response = Send("GET", target);
    EXPECT_EQ(response.status, 200) << response.body;
    return Json::parse(response.body, nullptr, false);
  }
  // The fault_message of a request that must be refused.
  std::string Fault(const std::string& method, const std::string& target,
                    const std::string& body = "") {
    HttpResponse response = Send(method, target, body);
    EXPECT_EQ(response.status, 400) << target << " " << response.body;
    const Json json = Json::parse(response.body, nullptr, false);
    return json.is_object() ? json.value("fault_message", "none") : "no JSON";
  }
  void Done(const std::string& method, const std::string& target,
            const std::string& body) {
    HttpResponse response = Send(method, target, body);
    EXPECT_EQ(response.status, 204) << target << " " << response.body;
    EXPECT_EQ(response.body, "");
  }
  // Keeps the worker busy while `body` runs. Once.
  void WithBusyWorker(const std::function<void()>& body) {
    std::promise<void> entered, leave;
    while_busy_ = [&] {
      entered.set_value();
      leave.get_future().wait();
    };
    std::future<HttpResponse> busy = Begin("GET", "/capabilities");
    entered.get_future().wait();
    body();
    leave.set_value();
    EXPECT_EQ(busy.get().status, 200);
  }
  // As well, with no room in its queue.
  void WithFullQueue(const std::function<void()>& body) {
    std::vector<std::future<HttpResponse>> waiting;
    WithBusyWorker([&] {
      // What is refused is answered at once.
      do {
        waiting.push_back(Begin("GET", "/capabilities"));
      } while (waiting.back().wait_for(std::chrono::seconds(0)) !=
               std::future_status::ready);
      EXPECT_EQ(waiting.back().get().status, 503);
      waiting.pop_back();
      body();
    });
    for (std::future<HttpResponse>& answer : waiting) {
      EXPECT_EQ(answer.get().status, 200);
    }
  }
  void StartVm() {
    Done("PUT", "/boot-source", kBoot);
    Done("PUT", "/actions", kStart);
  }

  FakeMachine machine_;
  EventHub events_;
  ApiCounters counters_;
  std::string logger_;
  absl::Status log_status_;
  int capability_calls_ = 0;
  // Runs on the worker, in the first GET /capabilities.
  std::function<void()> while_busy_;
  std::unique_ptr<Controller> controller_;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_CONTROLLER_FIXTURE_H_
