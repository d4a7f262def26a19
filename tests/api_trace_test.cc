// SPDX-License-Identifier: Apache-2.0
//
// Replays testdata/firecracker_requests.json: one request or more for each
// operation and field of the API that Firecracker 1.17 describes in its swagger
// (src/firecracker/swagger/firecracker.yaml, Apache-2.0, Copyright Amazon.com),
// over HTTP on a Unix socket, with the status that its clients expect. Our own
// words, their paths and names.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/api/client.h"
#include "cloister/api/controller.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/fake_machine.h"
#include "cloister/api/http.h"
#include "cloister/api/metrics.h"
#include "cloister/api/schema.h"
#include "cloister/api/server.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

// A VM that is a fake, behind a server on a Unix socket, and a client that
// keeps its connection as Firecracker's do.
class Replay {
 public:
  Replay() : controller_(&machine_, &events_, &counters_, Options()) {
    // Bazel's own folder is longer than a socket's name may be.
    char name[] = "/tmp/api-trace-XXXXXX";
    EXPECT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
  }
  ~Replay() {
    client_.reset();
    if (server_ != nullptr) server_->Stop();
    socket_.reset();
    EXPECT_EQ(::rmdir(folder_.c_str()), 0);
  }

  absl::Status Serve() {
    ASSIGN_OR_RETURN(socket_, SocketFile::Create(folder_ + "/s"));
    ASSIGN_OR_RETURN(server_,
                     Server::Create(
                         {.tick = [this] { controller_.Tick(); }},
                         [this](const HttpRequest& request, HttpReply reply) {
                           controller_.Handle(request, std::move(reply));
                         },
                         &counters_));
    RETURN_IF_ERROR(server_->AddListener(socket_->fd()));
    RETURN_IF_ERROR(server_->Start());
    ASSIGN_OR_RETURN(client_, Client::Connect(folder_ + "/s"));
    return absl::OkStatus();
  }
  absl::StatusOr<ClientResponse> Send(const Json& step) {
    std::string body;
    if (step.contains("text")) body = step["text"].get<std::string>();
    if (step.contains("body")) {
      body = absl::StrReplaceAll(step["body"].dump(),
                                 {{"$TMP", ::testing::TempDir()}});
    }
    return client_->Call(step["method"].get<std::string>(),
                         step["path"].get<std::string>(), body);
  }
  uint64_t connections() const { return counters_.connections.load(); }

 private:
  static ControllerOptions Options() {
    ControllerOptions options;
    options.version = "0.0.0";
    return options;
  }

  std::string folder_;
  FakeMachine machine_;
  EventHub events_;
  ApiCounters counters_;
  std::unique_ptr<SocketFile> socket_;
  std::unique_ptr<Server> server_;  // its replies come from below
  Controller controller_;
  std::unique_ptr<Client> client_;
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
    ASSERT_OK(replay.Serve());
    for (const Json& step : scene["steps"]) {
      SCOPED_TRACE(step.dump());
      ++steps;
      ASSERT_OK_AND_ASSIGN(const ClientResponse response, replay.Send(step));
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
    // A refusal does not cost a client its connection.
    EXPECT_EQ(replay.connections(), 1u);
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
