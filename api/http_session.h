// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_HTTP_SESSION_H_
#define CLOISTER_API_HTTP_SESSION_H_

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/http.h"
#include "cloister/api/metrics.h"

namespace cloister::api {

class HttpSession;

// What the sessions of one server have in common. Used by the thread that runs
// `context` only; outlives the sessions, and `on_close` is set before any.
struct HttpSessionHost {
  uint32_t header_limit = 0;
  uint64_t body_limit = 0;
  std::chrono::milliseconds idle{};
  std::chrono::milliseconds answer{};
  std::chrono::milliseconds stall{};
  HttpHandler handler;
  ApiCounters* counters = nullptr;
  // The server ends: no session reads another request.
  bool closing = false;
  std::function<void(const std::shared_ptr<HttpSession>&)> on_close;
  boost::asio::io_context context{1};  // last: it holds sessions
};

// One connection, from its first byte to its last: reads requests within the
// limits, has them answered one after another, and streams events. The server
// holds it until it is closed; pending operations do, too, so its buffers
// outlive them. The context's thread only.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;

  // With a token, which must outlive the session, only requests that carry it
  // are served.
  HttpSession(HttpSessionHost* host, Socket socket, const std::string& token);

  // Begins to read a request.
  void ReadRequest();
  // The server ends: closes what waits for a request, ends streams, and lets
  // answers out.
  void Wind();
  void Close();

 private:
  using ErrorCode = boost::system::error_code;
  enum class Phase { kReading, kAnswering, kWriting, kStreaming, kClosed };

  void SetDeadline(std::chrono::milliseconds limit,
                   void (*expire)(HttpSession&));
  void OnHeader(ErrorCode error, size_t size);
  bool Authorized() const;
  void ReadBody();
  void OnReadError(ErrorCode error);
  void Refuse(int status, absl::string_view message);
  void OnRequest();
  void OnAnswer(uint64_t number, HttpResponse response);
  void Write(HttpResponse from);
  void OnWritten(ErrorCode error);
  void Linger(ErrorCode error);
  // GET /events.
  void Stream(const HttpResponse& from);
  void Watch();
  void Pump();
  void EndStream();
  void OnPumped(ErrorCode error);

  HttpSessionHost* const host_;
  Socket socket_;
  boost::asio::steady_timer deadline_;
  const std::string& token_;
  boost::beast::flat_buffer buffer_;
  std::optional<
      boost::beast::http::request_parser<boost::beast::http::string_body>>
      parser_;
  boost::beast::http::response<boost::beast::http::empty_body> continue_;
  boost::beast::http::response<boost::beast::http::string_body> response_;
  std::unique_ptr<EventHub::Subscription> events_;
  std::string lines_;
  Phase phase_ = Phase::kReading;
  uint64_t request_ = 0;
  unsigned version_ = 11;
  bool keep_alive_ = true;
  bool timed_out_ = false;
  bool chunked_ = true;
  bool writing_ = false;
  bool winding_ = false;
};

// Whether two secrets are equal, in a time that depends on their lengths only.
bool SameSecret(absl::string_view a, absl::string_view b);

}  // namespace cloister::api

#endif  // CLOISTER_API_HTTP_SESSION_H_
