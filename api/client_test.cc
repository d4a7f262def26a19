// SPDX-License-Identifier: Apache-2.0
//
// The client against a server that says whatever the test wants.
#include "cloister/api/client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::IsOkAndHolds;
using base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

std::string Ok(const std::string& body) {
  return absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ", body.size(),
                      "\r\n\r\n", body);
}

// Takes one connection, and gives the next answer to each request that comes
// over it; after the last it closes.
class ScriptedServer {
 public:
  ScriptedServer(base::UniqueFd listener, std::vector<std::string> answers)
      : listener_(std::move(listener)),
        thread_([this, answers] { Serve(answers); }) {}
  ~ScriptedServer() { Requests(); }

  // Waits for its end; what came.
  const std::vector<std::string>& Requests() {
    if (thread_.joinable()) thread_.join();
    return requests_;
  }

 private:
  void Serve(const std::vector<std::string>& answers) {
    base::UniqueFd peer(::accept(listener_.get(), nullptr, nullptr));
    for (const std::string& answer : answers) {
      if (!Receive(peer.get())) return;
      if (::send(peer.get(), answer.data(), answer.size(), MSG_NOSIGNAL) < 0) {
        return;
      }
    }
    // Whoever waits for more is told that there is none.
    ::shutdown(peer.get(), SHUT_WR);
    char rest[64];
    while (::recv(peer.get(), rest, sizeof(rest), 0) > 0) continue;
  }
  // One request with its body.
  bool Receive(int fd) {
    std::string text;
    char byte = 0;
    while (!absl::EndsWith(text, "\r\n\r\n")) {
      if (::recv(fd, &byte, 1, 0) != 1) return false;
      text += byte;
    }
    size_t size = 0;
    const size_t at = text.find("Content-Length: ");
    if (at != std::string::npos)
      size = std::strtoul(&text[at + 16], nullptr, 10);
    for (; size > 0; --size) {
      if (::recv(fd, &byte, 1, 0) != 1) return false;
      text += byte;
    }
    requests_.push_back(text);
    return true;
  }

  const base::UniqueFd listener_;
  std::vector<std::string> requests_;  // the thread's until it is joined
  std::thread thread_;
};

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Bazel's own folder is longer than a socket's name may be.
    char name[] = "/tmp/client-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    path_ = folder_ + "/s";
  }
  void TearDown() override {
    client_.reset();
    server_.reset();
    ::unlink(path_.c_str());
    EXPECT_EQ(::rmdir(folder_.c_str()), 0);
  }

  base::UniqueFd Listen() {
    base::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address),
                     sizeof(address)),
              0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
    return fd;
  }
  void Connect(std::vector<std::string> answers) {
    server_ = std::make_unique<ScriptedServer>(Listen(), std::move(answers));
    ASSERT_OK_AND_ASSIGN(client_, Client::Connect(path_));
  }

  std::string folder_, path_;
  std::unique_ptr<ScriptedServer> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, OneConnectionForAllRequests) {
  Connect({Ok("{}"), "HTTP/1.1 204 No Content\r\n\r\n", Ok("x")});
  EXPECT_THAT(client_->Get("/a"), IsOkAndHolds("{}"));
  ASSERT_OK_AND_ASSIGN(ClientResponse none,
                       client_->Call("PUT", "/b", "{\"c\":1}"));
  EXPECT_EQ(none.status, 204);
  EXPECT_EQ(none.body, "");
  EXPECT_THAT(client_->Get("/d"), IsOkAndHolds("x"));
  client_.reset();
  const std::vector<std::string>& requests = server_->Requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_THAT(requests[0], AllOf(StartsWith("GET /a HTTP/1.1\r\n"),
                                 Not(HasSubstr("Authorization"))));
  EXPECT_THAT(requests[1],
              AllOf(StartsWith("PUT /b HTTP/1.1\r\n"),
                    HasSubstr("Content-Type: application/json\r\n"),
                    HasSubstr("\r\n\r\n{\"c\":1}")));
}

TEST_F(ClientTest, RefusalsAreTheServersWords) {
  const std::string body = "{\"fault_message\":\"guest owns this page\"}";
  Connect({absl::StrCat("HTTP/1.1 400 Bad Request\r\nContent-Length: ",
                        body.size(), "\r\n\r\n", body),
           "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"});
  EXPECT_THAT(client_->Get("/a"), StatusIs(kInvalid, "guest owns this page"));
  ASSERT_OK_AND_ASSIGN(ClientResponse busy, client_->Call("GET", "/b"));
  EXPECT_EQ(busy.status, 503);
  EXPECT_EQ(FaultMessage(busy), "status 503 busy");
}

TEST_F(ClientTest, WhatTheSchemaDoesNotKnowIsNotSent) {
  Connect({Ok("{}")});
  EXPECT_THAT(client_->Invoke("makeCoffee"), Not(base::IsOk()));
  EXPECT_THAT(client_->Get("/a"), IsOkAndHolds("{}"));
  client_.reset();
  EXPECT_EQ(server_->Requests().size(), 1u);
}

TEST_F(ClientTest, AnAnswerCutShortIsAnError) {
  Connect({"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"});
  EXPECT_THAT(client_->Get("/a"), StatusIs(kUnavailable));
}

TEST_F(ClientTest, AnAnswerThatIsNoneIsAnError) {
  Connect({"220 smtp.example ESMTP\r\n"});
  EXPECT_THAT(client_->Get("/a"), Not(base::IsOk()));
}

TEST_F(ClientTest, AServerThatSaysNothingIsWaitedForNoLongerThanTheLimit) {
  const base::UniqueFd nobody_accepts = Listen();
  ASSERT_OK_AND_ASSIGN(client_,
                       Client::Connect(path_, std::chrono::milliseconds(50)));
  EXPECT_THAT(client_->Get("/a"),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(ClientTest, StreamsComeLineByLineHoweverTheyAreCut) {
  const std::string head =
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  Connect({absl::StrCat(head, "4\r\none\n\r\n2\r\ntw\r\n4\r\no\nth\r\n",
                        "4\r\nree\n\r\n")});
  std::vector<std::string> lines;
  EXPECT_OK(client_->Stream("/events", [&](absl::string_view line) {
    lines.emplace_back(line);
    return lines.size() < 3;
  }));
  EXPECT_EQ(lines, std::vector<std::string>({"one", "two", "three"}));
}

TEST_F(ClientTest, AStreamThatTheServerEndsIsSaid) {
  Connect({absl::StrCat("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                        "4\r\none\n\r\n0\r\n\r\n")});
  int lines = 0;
  EXPECT_THAT(client_->Stream("/events",
                              [&](absl::string_view) { return ++lines > 0; }),
              StatusIs(kUnavailable));
  EXPECT_EQ(lines, 1);
}

TEST_F(ClientTest, NobodyListens) {
  EXPECT_THAT(Client::Connect(path_).status(),
              StatusIs(kUnavailable, HasSubstr(path_)));
  EXPECT_THAT(Client::Connect(std::string(200, 'x')).status(),
              StatusIs(kInvalid));
}

TEST_F(ClientTest, ByTcpWithItsToken) {
  base::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_EQ(::listen(fd.get(), 1), 0);
  server_ = std::make_unique<ScriptedServer>(
      std::move(fd), std::vector<std::string>({Ok("{}")}));
  ASSERT_OK_AND_ASSIGN(
      client_,
      Client::ConnectTcp(absl::StrCat("127.0.0.1:", ntohs(address.sin_port)),
                         "secret"));
  EXPECT_THAT(client_->Get("/a"), IsOkAndHolds("{}"));
  client_.reset();
  ASSERT_EQ(server_->Requests().size(), 1u);
  EXPECT_THAT(server_->Requests()[0],
              HasSubstr("Authorization: Bearer secret\r\n"));
  for (const char* bad : {"localhost:80", "127.0.0.1", "127.0.0.1:0x50", ""}) {
    EXPECT_THAT(Client::ConnectTcp(bad, "t").status(), StatusIs(kInvalid))
        << bad;
  }
}

}  // namespace
}  // namespace cloister::api
