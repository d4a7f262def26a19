// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/server.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/api/http_session.h"
#include "cloister/api/server_fixture.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(ServerTest, KeepsConnectionsAlive) {
  Serve({});
  Raw raw(path_);
  for (int i = 0; i < 3; ++i) {
    raw.Send(Get(absl::StrCat("/", i)));
    EXPECT_THAT(raw.ReadUntil(absl::StrCat("GET /", i, " 0")),
                StartsWith("HTTP/1.1 200 OK\r\n"));
    raw.Forget();
  }
  raw.Send("GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(raw.ReadAll(), HasSubstr("GET /last 0"));
  EXPECT_TRUE(raw.closed());
  EXPECT_EQ(counters_.connections.load(), 1u);
}

TEST_F(ServerTest, NoContentHasNoBody) {
  Serve({});
  Raw raw(path_);
  raw.Send("GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = raw.ReadAll();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 204 No Content\r\n"));
  EXPECT_FALSE(absl::StrContains(answer, "Content-Length"));
  EXPECT_TRUE(absl::EndsWith(answer, "\r\n\r\n"));
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  Serve({});
  Raw raw(path_);
  std::string all;
  for (int i = 0; i < 50; ++i) {
    all += i % 2 ? Put(std::string(i, 'b')) : Get(absl::StrCat("/r", i));
  }
  raw.Send(all);
  const std::string answers = raw.ReadUntil("PUT /p 49");
  size_t at = 0;
  for (int i = 0; i < 50; ++i) {
    at = answers.find(
        i % 2 ? absl::StrCat("PUT /p ", i) : absl::StrCat("GET /r", i, " 0"),
        at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST_F(ServerTest, RefusesWhatIsNotHttp) {
  Serve({});
  for (const std::string text :
       {"hello\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "\x16\x03\x01\x02\r\n\r\n"}) {
    Raw raw(path_);
    raw.Send(text);
    raw.FinishSending();
    EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 400")) << text;
    EXPECT_TRUE(raw.closed());
  }
  // Nothing, or a request that breaks off, deserves no answer.
  Raw nothing(path_);
  nothing.FinishSending();
  EXPECT_EQ(nothing.ReadAll(), "");
  Raw still(path_);
  still.Send(Get("/still"));
  EXPECT_THAT(still.ReadUntil("GET /still 0"), HasSubstr("200"));
}

TEST_F(ServerTest, ContinuesWhereAsked) {
  Serve({});
  Raw raw(path_);
  raw.Send(
      "PUT /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
      "Content-Length: 5\r\n\r\n");
  EXPECT_THAT(raw.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 100 Continue"));
  raw.Send("12345");
  EXPECT_THAT(raw.ReadUntil("PUT /p 5"), HasSubstr("HTTP/1.1 200"));
}

TEST_F(ServerTest, TokenIsAskedFor) {
  const std::string token = "0123456789abcdef";
  Serve({}, token);
  auto status = [&](const std::string& header) {
    Raw raw(path_);
    raw.Send(absl::StrCat("GET / HTTP/1.1\r\nHost: x\r\n", header,
                          "Connection: close\r\n\r\n"));
    return raw.ReadAll().substr(0, 12);
  };
  EXPECT_EQ(status(""), "HTTP/1.1 401");
  EXPECT_EQ(status("Authorization: Bearer 0123456789abcdee\r\n"),
            "HTTP/1.1 401");
  EXPECT_EQ(status("Authorization: Bearer 0123456789abcde\r\n"),
            "HTTP/1.1 401");
  EXPECT_EQ(status("Authorization: Basic 0123456789abcdef\r\n"),
            "HTTP/1.1 401");
  EXPECT_EQ(status("Authorization: Bearer 0123456789abcdef\r\n"),
            "HTTP/1.1 200");
}

TEST_F(ServerTest, SecretsAreEqualOrNot) {
  EXPECT_TRUE(SameSecret("", ""));
  EXPECT_TRUE(SameSecret("abc", "abc"));
  EXPECT_FALSE(SameSecret("abc", "abd"));
  EXPECT_FALSE(SameSecret("abc", "ab"));
}

TEST_F(ServerTest, StreamsEventsUntilItStops) {
  Serve({});
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<Client> client, Client::Connect(path_));
  std::atomic<int> lines{0};
  absl::Status end;
  std::thread reader([&] {
    end = client->Stream("/events", [&](absl::string_view line) {
      EXPECT_EQ(Json::parse(std::string(line))["number"], lines.load());
      ++lines;
      return true;
    });
  });
  while (!hub_.has_listeners()) std::this_thread::yield();
  for (int i = 0; i < 1000; ++i) hub_.Publish("tick", {{"number", i}});
  // What was published before the stop still arrives.
  server_->Stop();
  reader.join();
  EXPECT_EQ(lines.load(), 1000);
  EXPECT_FALSE(hub_.has_listeners());
}

TEST_F(ServerTest, SlowReadersOfEventsMissSomeAndAreTold) {
  Serve({});
  Raw raw(path_);
  raw.Send(Get("/events"));
  while (!hub_.has_listeners()) std::this_thread::yield();
  const std::string filler(1000, 'f');
  int published = 0;
  while (hub_.dropped() == 0) {
    hub_.Publish("e", {{"n", published++}, {"filler", filler}});
    ASSERT_LT(published, 1000000);
  }
  const uint64_t dropped = hub_.dropped();
  EXPECT_THAT(raw.ReadUntil("\"dropped\""),
              HasSubstr(absl::StrCat("\"count\":", dropped)));
  hub_.Publish("e", {{"n", "last"}});
  EXPECT_THAT(raw.ReadUntil("\"last\""), HasSubstr("\"last\""));
}

TEST_F(ServerTest, StreamsEndWithTheirReader) {
  Serve({});
  {
    Raw raw(path_);
    raw.Send(Get("/events"));
    raw.ReadUntil("\r\n\r\n");
    EXPECT_TRUE(hub_.has_listeners());
  }
  while (hub_.has_listeners()) std::this_thread::yield();
}

TEST_F(ServerTest, StopLetsAnswersOut) {
  Serve({});
  Raw idle(path_);
  Raw busy(path_);
  busy.Send(Get("/never"));
  entered_.get_future().wait();
  std::thread stop([&] { server_->Stop(); });
  EXPECT_EQ(idle.ReadAll(), "");
  HttpResponse response;
  response.status = 200;
  response.body = "at last";
  late_(response);
  EXPECT_THAT(busy.ReadAll(), HasSubstr("at last"));
  stop.join();
}

TEST_F(ServerTest, StopDoesNotWaitForever) {
  Serve({});
  Raw busy(path_);
  busy.Send(Get("/never"));
  entered_.get_future().wait();
  const auto start = std::chrono::steady_clock::now();
  server_->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  late_({});
}

TEST_F(ServerTest, ClientSeesEveryStatus) {
  Serve({});
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<Client> client, Client::Connect(path_));
  ASSERT_OK_AND_ASSIGN(ClientResponse response,
                       client->Call("PUT", "/p", "{\"a\":1}"));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "PUT /p 7");
  ASSERT_OK_AND_ASSIGN(response, client->Call("GET", "/nothing"));
  EXPECT_EQ(response.status, 204);
  EXPECT_FALSE(Client::Connect(path_ + ".not").ok());
}

}  // namespace
}  // namespace cloister::api
