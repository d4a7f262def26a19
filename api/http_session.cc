// SPDX-License-Identifier: Apache-2.0
#if defined(__SANITIZE_THREAD__)
// Boost.Asio's fences, which ThreadSanitizer does not model. Nothing here
// leans on them: what threads share goes through a mutex or asio::post.
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#include "cloister/api/http_session.h"

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace cloister::api {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Milliseconds = std::chrono::milliseconds;

constexpr char kServerName[] = "Cloister";
constexpr size_t kEventBytes = 64 << 10;  // per write

void Fill(const HttpResponse& from, http::fields* fields) {
  fields->set(http::field::server, kServerName);
  if (from.status != 204) {
    fields->set(http::field::content_type, from.content_type);
  }
  fields->set(http::field::cache_control, "no-store");
}

}  // namespace

HttpSession::HttpSession(HttpSessionHost* host, Socket socket,
                         const std::string& token)
    : host_(host),
      socket_(std::move(socket)),
      deadline_(host->context),
      token_(token),
      buffer_(host->header_limit + (64 << 10)) {}

void HttpSession::ReadRequest() {
  if (host_->closing) return Close();
  phase_ = Phase::kReading;
  parser_.emplace();
  parser_->header_limit(host_->header_limit);
  parser_->body_limit(host_->body_limit);
  timed_out_ = false;
  SetDeadline(host_->idle, [](HttpSession& session) {
    // What is pending ends with an error, and its handler sees this. A read
    // that is done already cannot be cancelled; those after it find the end.
    session.timed_out_ = true;
    ErrorCode ignored;
    session.socket_.shutdown(Socket::shutdown_receive, ignored);
    session.socket_.cancel(ignored);
  });
  http::async_read_header(
      socket_, buffer_, *parser_,
      [self = shared_from_this()](ErrorCode error, size_t size) {
        self->OnHeader(error, size);
      });
}

// The server ends.
void HttpSession::Wind() {
  if (phase_ == Phase::kReading && !parser_->got_some()) return Close();
  if (phase_ != Phase::kStreaming) return;
  winding_ = true;
  Pump();
}

void HttpSession::Close() {
  phase_ = Phase::kClosed;
  deadline_.cancel();
  events_.reset();
  ErrorCode ignored;
  socket_.shutdown(Socket::shutdown_both, ignored);
  socket_.close(ignored);
  host_->on_close(shared_from_this());
}

void HttpSession::SetDeadline(Milliseconds limit,
                              void (*expire)(HttpSession&)) {
  deadline_.expires_after(limit);
  deadline_.async_wait(
      [weak = weak_from_this(), expire](const ErrorCode& error) {
        auto self = weak.lock();
        if (error || self == nullptr) return;
        // A timer that was set again meanwhile has a later time.
        if (self->deadline_.expiry() > std::chrono::steady_clock::now()) {
          return;
        }
        ++self->host_->counters->timeouts;
        expire(*self);
      });
}

void HttpSession::OnHeader(ErrorCode error, size_t size) {
  // The parser bounds what it keeps, but does not count the start line.
  if (!error && size > host_->header_limit) {
    error = http::error::header_limit;
  }
  if (error || timed_out_) return OnReadError(error);
  if (!token_.empty() && !Authorized()) {
    // Without reading a body from somebody unknown.
    return Refuse(401, "the bearer token is missing or wrong");
  }
  const auto expect = parser_->get()[http::field::expect];
  if (absl::EqualsIgnoreCase(absl::string_view(expect.data(), expect.size()),
                             "100-continue") &&
      !parser_->is_done()) {
    continue_.version(11);
    continue_.result(http::status::continue_);
    http::async_write(
        socket_, continue_,
        [self = shared_from_this()](ErrorCode write_error, size_t) {
          write_error ? self->Close() : self->ReadBody();
        });
    return;
  }
  ReadBody();
}

bool HttpSession::Authorized() const {
  const auto value = parser_->get()[http::field::authorization];
  const absl::string_view text(value.data(), value.size());
  constexpr absl::string_view kBearer = "bearer ";
  return absl::StartsWithIgnoreCase(text, kBearer) &&
         SameSecret(text.substr(kBearer.size()), token_);
}

void HttpSession::ReadBody() {
  http::async_read(socket_, buffer_, *parser_,
                   [self = shared_from_this()](ErrorCode error, size_t) {
                     if (error || self->timed_out_) {
                       return self->OnReadError(error);
                     }
                     self->OnRequest();
                   });
}

void HttpSession::OnReadError(ErrorCode error) {
  if (phase_ == Phase::kClosed) return;
  if (timed_out_ && !parser_->got_some() && buffer_.size() == 0) {
    return Close();
  }
  if (timed_out_) {
    return Refuse(408, "the request took too long to arrive");
  }
  if (error == http::error::header_limit ||
      error == http::error::buffer_overflow) {
    return Refuse(431, absl::StrCat("the header is larger than ",
                                    host_->header_limit, " bytes"));
  }
  if (error == http::error::body_limit) {
    return Refuse(413, absl::StrCat("the body is larger than ",
                                    host_->body_limit, " bytes"));
  }
  if (error == http::error::end_of_stream) return Close();
  const bool is_http =
      error.category() == make_error_code(http::error::bad_method).category();
  if (!is_http) return Close();
  Refuse(400, absl::StrCat("not HTTP: ", error.message()));
}

// An answer before the request was read to its end: the connection cannot be
// used any more.
void HttpSession::Refuse(int status, absl::string_view message) {
  ++host_->counters->bad_requests;
  keep_alive_ = false;
  version_ = 11;
  Write(Fault(status, message));
}

void HttpSession::OnRequest() {
  phase_ = Phase::kAnswering;
  auto message = parser_->release();
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  request.body = std::move(message.body());
  version_ = message.version();
  // The answer to HEAD, and to who knows what, would have no body.
  keep_alive_ = message.keep_alive() && message.method() != http::verb::head &&
                message.method() != http::verb::connect;
  SetDeadline(host_->answer, [](HttpSession& session) {
    ++session.request_;
    session.keep_alive_ = false;
    session.Write(
        Fault(503, "the request takes too long; it may still be done"));
  });
  HttpSessionHost* host = host_;
  host_->handler(request, [host, weak = weak_from_this(),
                           number = request_](HttpResponse response) {
    asio::post(host->context,
               [weak, number, response = std::move(response)]() mutable {
                 auto self = weak.lock();
                 if (self == nullptr) return;
                 self->OnAnswer(number, std::move(response));
               });
  });
}

void HttpSession::OnAnswer(uint64_t number, HttpResponse response) {
  if (number != request_ || phase_ != Phase::kAnswering) return;
  ++request_;
  if (response.events != nullptr) return Stream(response);
  Write(std::move(response));
}

void HttpSession::Write(HttpResponse from) {
  phase_ = Phase::kWriting;
  SetDeadline(host_->idle, [](HttpSession& session) { session.Close(); });
  response_ = {};
  response_.version(version_);
  response_.result(static_cast<unsigned>(from.status));
  Fill(from, &response_);
  if (from.status == 401) {
    response_.set(http::field::www_authenticate, "Bearer");
  }
  response_.body() = std::move(from.body);
  response_.prepare_payload();
  // RFC 9110, 8.6: none with 204.
  if (from.status == 204) response_.erase(http::field::content_length);
  if (host_->closing) keep_alive_ = false;
  response_.keep_alive(keep_alive_);
  http::async_write(socket_, response_,
                    [self = shared_from_this()](ErrorCode error, size_t) {
                      self->OnWritten(error);
                    });
}

void HttpSession::OnWritten(ErrorCode error) {
  if (phase_ == Phase::kClosed) return;
  if (error || !keep_alive_) return Linger(error);
  ReadRequest();
}

// A client that still writes would lose the answer if the connection were
// reset under it: takes what has come already, then closes.
void HttpSession::Linger(ErrorCode error) {
  if (!error) {
    ErrorCode ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    char rest[4096];
    socket_.non_blocking(true, ignored);
    for (int i = 0; i < 64; ++i) {
      if (socket_.read_some(asio::buffer(rest), ignored) == 0) break;
    }
  }
  Close();
}

void HttpSession::Stream(const HttpResponse& from) {
  phase_ = Phase::kStreaming;
  deadline_.cancel();
  auto head = std::make_shared<http::response<http::empty_body>>();
  head->version(version_);
  head->result(http::status::ok);
  Fill(from, head.get());
  chunked_ = version_ >= 11;
  head->chunked(chunked_);
  head->keep_alive(false);
  HttpSessionHost* host = host_;
  events_ = from.events->Subscribe([host, weak = weak_from_this()] {
    asio::post(host->context, [weak] {
      if (auto self = weak.lock()) self->Pump();
    });
  });
  auto serializer =
      std::make_shared<http::response_serializer<http::empty_body>>(*head);
  writing_ = true;
  http::async_write_header(
      socket_, *serializer,
      [self = shared_from_this(), head, serializer](ErrorCode error, size_t) {
        self->OnPumped(error);
      });
  Watch();
}

// Ends the stream when the client does, or says anything more.
void HttpSession::Watch() {
  socket_.async_wait(Socket::wait_read,
                     [self = shared_from_this()](ErrorCode) { self->Close(); });
}

void HttpSession::Pump() {
  if (phase_ != Phase::kStreaming || writing_ || events_ == nullptr) return;
  lines_ = events_->Take(kEventBytes);
  if (lines_.empty()) return winding_ ? EndStream() : void();
  writing_ = true;
  SetDeadline(host_->stall, [](HttpSession& session) { session.Close(); });
  auto done = [self = shared_from_this()](ErrorCode error, size_t) {
    self->OnPumped(error);
  };
  if (chunked_) {
    asio::async_write(socket_, http::make_chunk(asio::buffer(lines_)), done);
  } else {
    asio::async_write(socket_, asio::buffer(lines_), done);
  }
}

// The server ends, and all events are out.
void HttpSession::EndStream() {
  if (!chunked_) return Close();
  writing_ = true;
  SetDeadline(host_->idle, [](HttpSession& session) { session.Close(); });
  asio::async_write(
      socket_, http::make_chunk_last(),
      [self = shared_from_this()](ErrorCode, size_t) { self->Close(); });
}

void HttpSession::OnPumped(ErrorCode error) {
  writing_ = false;
  deadline_.cancel();
  if (phase_ != Phase::kStreaming) return;
  if (error) return Close();
  Pump();
}

bool SameSecret(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

}  // namespace cloister::api
