// SPDX-License-Identifier: Apache-2.0
//
// Runs the REST client beside a server of this process, whose VM is a fake.
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/controller.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/fake_machine.h"
#include "cloister/api/http.h"
#include "cloister/api/metrics.h"
#include "cloister/api/server.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "cloister/examples/shell.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister {
namespace {

using examples::Shell;
using examples::ShellResult;
using ::testing::HasSubstr;

api::ControllerOptions Options() {
  api::ControllerOptions options;
  options.id = "example";
  options.version = "1";
  return options;
}

class RestClientTest : public ::testing::Test {
 protected:
  RestClientTest() : controller_(&machine_, &events_, &counters_, Options()) {}
  void SetUp() override {
    char name[] = "/tmp/rest-client-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    ASSERT_OK_AND_ASSIGN(socket_, api::SocketFile::Create(folder_ + "/s"));
    ASSERT_OK_AND_ASSIGN(
        server_,
        api::Server::Create(
            {.tick = [this] { controller_.Tick(); }},
            [this](const api::HttpRequest& request, api::HttpReply reply) {
              controller_.Handle(request, std::move(reply));
            },
            &counters_));
    ASSERT_OK(server_->AddListener(socket_->fd()));
    ASSERT_OK(server_->Start());
  }
  void TearDown() override {
    server_.reset();
    socket_.reset();
    EXPECT_EQ(::rmdir(folder_.c_str()), 0);
  }

  std::string folder_;
  api::FakeMachine machine_;
  api::EventHub events_;
  api::ApiCounters counters_;
  api::Controller controller_;
  std::unique_ptr<api::SocketFile> socket_;
  std::unique_ptr<api::Server> server_;
};

TEST_F(RestClientTest, SaysWhatTheVmIs) {
  ShellResult result =
      Shell(absl::StrCat("examples/rest_client ", folder_, "/s"));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("\"state\":\"Not started\""));
  EXPECT_THAT(result.output, HasSubstr("getConversions: "));
  EXPECT_THAT(result.output, HasSubstr("has not been started"));

  ASSERT_OK(controller_.LoadConfig(
      R"({"boot-source": {"kernel_image_path": "/k"}})"));
  ASSERT_OK(controller_.Start());
  result = Shell(absl::StrCat("examples/rest_client ", folder_, "/s"));
  EXPECT_THAT(result.output, HasSubstr("\"state\":\"Running\""));
  EXPECT_THAT(result.output, HasSubstr("\"backend\":\"emulated\""));
  EXPECT_THAT(result.output, HasSubstr("\"to_shared\""));
}

TEST_F(RestClientTest, PrintsAsManyEventsAsAskedFor) {
  // Only once the client listens: what comes before is not for it.
  std::FILE* pipe = ::popen(
      absl::StrCat("examples/rest_client ", folder_, "/s 2 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!events_.has_listeners() && std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
  for (int i = 0; i < 2; ++i) events_.Publish("lifecycle", {{"number", i}});
  std::string output;
  std::array<char, 512> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) {
    output += buffer.data();
  }
  EXPECT_EQ(::pclose(pipe), 0);
  EXPECT_THAT(output, HasSubstr("\"number\":0"));
  EXPECT_THAT(output, HasSubstr("\"number\":1"));
}

TEST_F(RestClientTest, MistakesAreNamed) {
  EXPECT_EQ(Shell("examples/rest_client").exit_code, 2);
  EXPECT_EQ(Shell("examples/rest_client s many").exit_code, 2);
  const ShellResult result = Shell("examples/rest_client /no/such/socket");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("/no/such/socket"));
}

}  // namespace
}  // namespace cloister
