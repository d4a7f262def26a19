// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/api/http_session.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A client that may say anything.
class Raw {
 public:
  explicit Raw(const std::string& path)
      : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address),
                           sizeof(address)) == 0;
  }
  bool connected() const { return connected_; }
  // False if the server has closed.
  bool Send(const std::string& text) {
    size_t at = 0;
    while (at < text.size()) {
      const ssize_t sent =
          ::send(fd_.get(), text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return false;
      at += static_cast<size_t>(sent);
    }
    return true;
  }
  void FinishSending() { ::shutdown(fd_.get(), SHUT_WR); }
  // Reads until `text` has come, or the end, or ten seconds have passed.
  std::string ReadUntil(const std::string& text) {
    while (!absl::StrContains(seen_, text) && ReadSome()) {
    }
    return seen_;
  }
  // Reads to the end.
  std::string ReadAll() {
    while (ReadSome()) {
    }
    return seen_;
  }
  bool closed() const { return closed_; }
  void Forget() { seen_.clear(); }
  int fd() const { return fd_.get(); }

 private:
  bool ReadSome() {
    pollfd ready = {fd_.get(), POLLIN, 0};
    if (::poll(&ready, 1, 10000) <= 0) return false;
    char part[4096];
    const ssize_t size = ::recv(fd_.get(), part, sizeof(part), 0);
    if (size <= 0) {
      closed_ = true;
      return false;
    }
    seen_.append(part, static_cast<size_t>(size));
    return true;
  }
  base::UniqueFd fd_;
  bool connected_ = false;
  bool closed_ = false;
  std::string seen_;
};

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Bazel's own folder is longer than a socket's name may be.
    char name[] = "/tmp/api-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    path_ = folder_ + "/s";
  }
  void TearDown() override {
    server_.reset();
    socket_.reset();
    // Nothing is left in it.
    EXPECT_EQ(::rmdir(folder_.c_str()), 0);
  }
  void Serve(ServerOptions options, const std::string& token = "") {
    ASSERT_OK_AND_ASSIGN(socket_, SocketFile::Create(path_));
    ASSERT_OK_AND_ASSIGN(
        server_, Server::Create(
                     options,
                     [this](const HttpRequest& request, HttpReply reply) {
                       Handle(request, std::move(reply));
                     },
                     &counters_));
    ASSERT_OK(server_->AddListener(socket_->fd(), token));
    ASSERT_OK(server_->Start());
  }
  // Echoes; "/slow" answers from another thread when it is told to, "/never"
  // does not; "/events" streams.
  void Handle(const HttpRequest& request, HttpReply reply) {
    if (request.target == "/never") {
      late_ = std::move(reply);
      entered_.set_value();
      return;
    }
    HttpResponse response;
    if (request.target == "/events") response.events = &hub_;
    if (request.target != "/nothing") {
      response.status = 200;
      response.body = absl::StrCat(request.method, " ", request.target, " ",
                                   request.body.size());
    }
    reply(std::move(response));
  }
  std::string Get(const std::string& target) {
    return absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  std::string Put(const std::string& body, const std::string& more = "") {
    return absl::StrCat("PUT /p HTTP/1.1\r\nHost: x\r\n", more,
                        "Content-Length: ", body.size(), "\r\n\r\n", body);
  }
  // The whole header, of exactly `size` bytes.
  std::string GetOfSize(size_t size) {
    const std::string head = "GET / HTTP/1.1\r\nHost: x\r\nX: ";
    return absl::StrCat(head, std::string(size - head.size() - 4, 'x'),
                        "\r\n\r\n");
  }

  EventHub hub_;
  ApiCounters counters_;
  HttpReply late_;
  std::promise<void> entered_;
  std::string folder_;
  std::string path_;
  std::unique_ptr<SocketFile> socket_;
  std::unique_ptr<Server> server_;
};

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
