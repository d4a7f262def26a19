// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_SERVER_FIXTURE_H_
#define CLOISTER_API_SERVER_FIXTURE_H_

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/server.h"
#include "cloister/api/socket_file.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "gtest/gtest.h"

namespace cloister::api {

// A client that may say anything (test only).
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

// A server at path_, in a folder of its own, that has counters and events (test
// only).
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
  // A socket, and a server that does not listen yet.
  void Create(const ServerOptions& options) {
    ASSERT_OK_AND_ASSIGN(socket_, SocketFile::Create(path_));
    ASSERT_OK_AND_ASSIGN(
        server_, Server::Create(
                     options,
                     [this](const HttpRequest& request, HttpReply reply) {
                       Handle(request, std::move(reply));
                     },
                     &counters_));
  }
  void Serve(const ServerOptions& options, const std::string& token = "") {
    Create(options);
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

}  // namespace cloister::api

#endif  // CLOISTER_API_SERVER_FIXTURE_H_
