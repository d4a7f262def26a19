// SPDX-License-Identifier: Apache-2.0
// What ServerOptions bound: sizes, connections and times.
#include <poll.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/api/server_fixture.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(ServerTest, HeadersUpToTheLimit) {
  ServerOptions options;
  options.header_limit = 16 << 10;
  Serve(options);
  {
    Raw raw(path_);
    raw.Send(GetOfSize(16 << 10));
    EXPECT_THAT(raw.ReadUntil("GET / 0"), StartsWith("HTTP/1.1 200"));
  }
  Raw raw(path_);
  raw.Send(GetOfSize((16 << 10) + 1));
  EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 431"));
  EXPECT_TRUE(raw.closed());
  EXPECT_EQ(counters_.bad_requests.load(), 1u);
}

TEST_F(ServerTest, BodiesUpToTheLimit) {
  Serve({});
  {
    Raw raw(path_);
    raw.Send(Put(std::string(51200, 'b')));
    EXPECT_THAT(raw.ReadUntil("PUT /p 51200"), StartsWith("HTTP/1.1 200"));
  }
  Raw raw(path_);
  raw.Send(Put(std::string(51201, 'b')));
  EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 413"));
  // Chunked, without a length to look at.
  for (size_t size : {51200, 51201}) {
    Raw chunked(path_);
    chunked.Send(absl::StrCat(
        "PUT /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n",
        absl::Hex(size), "\r\n", std::string(size, 'b'), "\r\n0\r\n\r\n"));
    EXPECT_THAT(chunked.ReadAll(),
                StartsWith(size == 51200 ? "HTTP/1.1 200" : "HTTP/1.1 413"));
  }
}

TEST_F(ServerTest, ConnectionsUpToTheLimit) {
  ServerOptions options;
  options.max_connections = 64;
  options.idle = std::chrono::seconds(60);
  Serve(options);
  std::vector<std::unique_ptr<Raw>> clients;
  for (int i = 0; i < 64; ++i) {
    clients.push_back(std::make_unique<Raw>(path_));
    clients.back()->Send(Get("/a"));
    EXPECT_THAT(clients.back()->ReadUntil("GET /a 0"), HasSubstr("200"));
  }
  Raw extra(path_);
  EXPECT_THAT(extra.ReadAll(), StartsWith("HTTP/1.1 503"));
  EXPECT_TRUE(extra.closed());
  EXPECT_EQ(counters_.connections_refused.load(), 1u);
  // The others are as they were, and one that leaves makes room.
  clients[7]->Forget();
  clients[7]->Send(Get("/b"));
  EXPECT_THAT(clients[7]->ReadUntil("GET /b 0"), HasSubstr("200"));
  clients[9]->FinishSending();
  clients[9]->ReadAll();
  Raw next(path_);
  next.Send(Get("/c"));
  EXPECT_THAT(next.ReadUntil("GET /c 0"), HasSubstr("200"));
}

TEST_F(ServerTest, ListenersHaveTheirOwnLimits) {
  ServerOptions options;
  options.max_connections = 2;
  options.idle = std::chrono::seconds(60);
  const std::string other_path = folder_ + "/t";
  ASSERT_OK_AND_ASSIGN(std::unique_ptr<SocketFile> other,
                       SocketFile::Create(other_path));
  Create(options);
  ASSERT_OK(server_->AddListener(socket_->fd()));
  ASSERT_OK(server_->AddListener(other->fd(), "0123456789abcdef"));
  ASSERT_OK(server_->Start());
  // Nobody knows yet who they are, and they take no place of the others.
  const Raw first(other_path), second(other_path);
  EXPECT_THAT(Raw(other_path).ReadAll(), StartsWith("HTTP/1.1 503"));
  std::vector<std::unique_ptr<Raw>> clients;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(std::make_unique<Raw>(path_));
    clients.back()->Send(Get("/a"));
    EXPECT_THAT(clients.back()->ReadUntil("GET /a 0"), HasSubstr("200"));
  }
  EXPECT_THAT(Raw(path_).ReadAll(), StartsWith("HTTP/1.1 503"));
  // Who leaves makes room where they came from.
  clients[0]->FinishSending();
  clients[0]->ReadAll();
  EXPECT_THAT(Raw(other_path).ReadAll(), StartsWith("HTTP/1.1 503"));
  Raw next(path_);
  next.Send(Get("/b"));
  EXPECT_THAT(next.ReadUntil("GET /b 0"), HasSubstr("200"));
}

TEST_F(ServerTest, IdleAndSlowClientsAreSentAway) {
  ServerOptions options;
  options.idle = std::chrono::milliseconds(200);
  Serve(options);
  Raw silent(path_);
  Raw slow(path_);
  // One byte after the other is not enough to stay.
  const auto start = std::chrono::steady_clock::now();
  bool open = true;
  for (const char c : Get("/" + std::string(4000, 's'))) {
    open = slow.Send(std::string(1, c));
    pollfd ready = {slow.fd(), POLLIN, 0};
    if (!open || ::poll(&ready, 1, 20) > 0) break;
  }
  EXPECT_THAT(slow.ReadAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_EQ(silent.ReadAll(), "");
  EXPECT_TRUE(silent.closed());
  // A body that stops coming.
  Raw half(path_);
  half.Send("PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_THAT(half.ReadAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_GE(counters_.timeouts.load(), 3u);
}

// The time is over while what has come already is being read.
TEST_F(ServerTest, WhatTimesOutInTheMidstOfReadingIsSentAway) {
  ServerOptions options;
  options.idle = std::chrono::milliseconds(500);
  std::promise<void> entered, sent;
  bool held = false;
  options.tick = [&] {
    if (held || counters_.connections.load() == 0) return;
    held = true;
    // The connection's time has begun, on this thread.
    const auto end = std::chrono::steady_clock::now() + options.idle;
    entered.set_value();
    sent.get_future().wait();
    std::this_thread::sleep_until(end);
  };
  Serve(options);
  Raw raw(path_);
  raw.Send("GET / HTTP/1.1\r\nX: ");
  entered.get_future().wait();
  // More than one read takes, and no end of it.
  raw.Send(std::string(8000, 'x'));
  sent.set_value();
  EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_TRUE(raw.closed());
  server_->Stop();  // it uses what is here
}

TEST_F(ServerTest, AnswersLateRequestsItself) {
  ServerOptions options;
  options.answer = std::chrono::milliseconds(100);
  Serve(options);
  Raw raw(path_);
  raw.Send(Get("/never"));
  entered_.get_future().wait();
  // Others are served meanwhile.
  Raw other(path_);
  other.Send(Get("/o"));
  EXPECT_THAT(other.ReadUntil("GET /o 0"), HasSubstr("200"));
  EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 503"));
  late_({});
}

}  // namespace
}  // namespace cloister::api
