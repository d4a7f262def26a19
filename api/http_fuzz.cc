// SPDX-License-Identifier: Apache-2.0
//
// Feeds bytes to a session over a socket, as a client would send them. The
// first byte of an input says how: bit 0: the listener asks for a token, bit 1:
// the client does not close, so the session has to; the second one, how many
// bytes come at a time (0: all). The rest is what is sent.
//
// Whatever comes, the session ends, and what it answers is HTTP: each message
// has a status of the schema and, if that is a refusal, a fault_message. The
// handler is asked for nothing that the limits forbid.
#if defined(__SANITIZE_THREAD__)
// Boost.Asio's fences, which ThreadSanitizer does not model. One thread alone
// is at work here.
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/http.h"
#include "cloister/api/http_session.h"
#include "cloister/api/json.h"
#include "cloister/api/metrics.h"
#include "cloister/api/schema.h"
#include "cloister/base/unique_fd.h"

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using cloister::api::HttpReply;
using cloister::api::HttpRequest;
using cloister::api::HttpResponse;
using cloister::api::HttpSession;
using std::chrono::milliseconds;

constexpr uint32_t kHeaderLimit = 512;
constexpr uint64_t kBodyLimit = 256;
constexpr char kToken[] = "0123456789abcdef";

void Require(bool good) {
  if (!good) std::abort();
}

// The far end of the session's connection.
class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}
  // As much as there is room for; false once nobody reads any more.
  bool Send(absl::string_view* rest, size_t at_once) {
    const ssize_t sent =
        ::send(fd_.get(), rest->data(), std::min(at_once, rest->size()),
               MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN;
    rest->remove_prefix(static_cast<size_t>(sent));
    return true;
  }
  void Drain() {
    char part[4096];
    for (;;) {
      const ssize_t size = ::recv(fd_.get(), part, sizeof(part), MSG_DONTWAIT);
      if (size <= 0) return;
      seen_.append(part, static_cast<size_t>(size));
    }
  }
  void FinishSending() { ::shutdown(fd_.get(), SHUT_WR); }
  const std::string& seen() const { return seen_; }

 private:
  cloister::base::UniqueFd fd_;
  std::string seen_;
};

void CheckRequest(const HttpRequest& request) {
  Require(request.body.size() <= kBodyLimit);
  Require(request.method.size() + request.target.size() <= kHeaderLimit);
  for (char c : request.method + request.target) Require(c > ' ' || c < 0);
}

void CheckAnswer(const http::response<http::string_body>& answer) {
  const int status = static_cast<int>(answer.result_int());
  if (status == 100 || status == 200 || status == 204) return;
  const auto faults = cloister::api::FaultStatuses();
  Require(std::any_of(faults.begin(), faults.end(), [&](const auto& fault) {
    return fault.status == status;
  }));
  auto json = cloister::api::ParseJson(answer.body());
  Require(json.ok() && json->contains("fault_message"));
}

// `text` is messages one after another; the last may be a stream's, which ends
// where the connection does.
void CheckAnswers(absl::string_view text) {
  while (!text.empty()) {
    http::response_parser<http::string_body> parser;
    parser.eager(true);
    boost::system::error_code error;
    const size_t used =
        parser.put(asio::buffer(text.data(), text.size()), error);
    if (error == http::error::need_more) {
      // A client that does not read to the end may miss the end of an answer.
      return Require(parser.is_header_done() && parser.chunked());
    }
    Require(!error && used > 0);
    CheckAnswer(parser.get());
    text.remove_prefix(used);
  }
}

// One connection, from its first byte to its last.
class Connection {
 public:
  Connection(bool token, bool closes) : token_(token ? kToken : "") {
    host_.header_limit = kHeaderLimit;
    host_.body_limit = kBodyLimit;
    host_.idle = closes ? std::chrono::seconds(10) : milliseconds(2);
    host_.answer = milliseconds(2);
    host_.stall = milliseconds(2);
    host_.counters = &counters_;
    host_.handler = [this](const HttpRequest& request, HttpReply reply) {
      Serve(request, std::move(reply));
    };
    host_.on_close = [this](const std::shared_ptr<HttpSession>&) {
      session_.reset();
    };
    int ends[2];
    Require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                         ends) == 0);
    peer_ = std::make_unique<Peer>(ends[1]);
    HttpSession::Socket socket(host_.context);
    socket.assign(asio::generic::stream_protocol(AF_UNIX, 0), ends[0]);
    session_ = std::make_shared<HttpSession>(&host_, std::move(socket), token_);
    weak_ = session_;
    session_->ReadRequest();
  }

  void Run(absl::string_view input, size_t at_once, bool closes) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(8);
    while (session_ != nullptr) {
      Poll();
      if (session_ == nullptr) break;
      if (!input.empty()) {
        if (!peer_->Send(&input, at_once)) input = {};
        if (input.empty() && closes) peer_->FinishSending();
        continue;
      }
      if (!finished_ && closes) peer_->FinishSending();
      finished_ = true;
      // A stream has no end but the client's and the server's.
      if (streaming_ && !closes) End();
      if (session_ == nullptr) break;
      host_.context.restart();
      host_.context.run_one_for(milliseconds(5));
      Require(std::chrono::steady_clock::now() < end);
    }
    // Answers that come when nobody waits for them any more are dropped.
    for (HttpReply& reply : late_) reply(cloister::api::Fault(400, "late"));
    late_.clear();
    Poll();
    CheckAnswers(peer_->seen());
    Require(weak_.expired());
  }

 private:
  void Poll() {
    host_.context.restart();
    host_.context.poll();
    peer_->Drain();
  }
  // As the server does.
  void End() {
    if (host_.closing) return;
    host_.closing = true;
    session_->Wind();
  }
  void Serve(const HttpRequest& request, HttpReply reply) {
    CheckRequest(request);
    if (request.target == "/never") {
      late_.push_back(std::move(reply));
      return;
    }
    HttpResponse response;
    if (request.target == "/events") {
      streaming_ = true;
      response.status = 200;
      response.events = &hub_;
    } else if (request.target == "/fault") {
      response = cloister::api::Fault(400, request.body);
    } else if (request.target != "/nothing") {
      response = cloister::api::OkText(
          absl::StrCat(request.method, " ", request.body), "text/plain");
    }
    reply(std::move(response));
    hub_.Publish("lifecycle", {{"state", "running"}});
  }

  const std::string token_;
  cloister::api::EventHub hub_;
  cloister::api::ApiCounters counters_;
  std::vector<HttpReply> late_;
  std::unique_ptr<Peer> peer_;
  std::weak_ptr<HttpSession> weak_;
  std::shared_ptr<HttpSession> session_;
  bool finished_ = false;
  bool streaming_ = false;
  cloister::api::HttpSessionHost host_;  // first to go: it holds the session
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const bool closes = (data[0] & 2) == 0;
  const absl::string_view input(reinterpret_cast<const char*>(data) + 2,
                                size - 2);
  Connection connection((data[0] & 1) != 0, closes);
  connection.Run(input, data[1] == 0 ? size : data[1], closes);
  return 0;
}
