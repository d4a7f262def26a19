// SPDX-License-Identifier: Apache-2.0
#if defined(__SANITIZE_THREAD__)
// Boost.Asio's fences, which ThreadSanitizer does not model. Nothing here
// leans on them: what threads share goes through a mutex or asio::post.
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#include "cloister/api/client.h"

#include <netinet/in.h>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/json.h"
#include "cloister/api/request.h"
#include "cloister/api/tcp_address.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;

// A memory map of a large guest has its place, a server gone wrong has not.
constexpr uint64_t kBodyLimit = 64 << 20;

http::request<http::string_body> MakeRequest(absl::string_view method,
                                             absl::string_view target,
                                             absl::string_view body) {
  http::request<http::string_body> request;
  request.method_string({method.data(), method.size()});
  request.target({target.data(), target.size()});
  request.version(11);
  request.set(http::field::host, "localhost");
  request.set(http::field::accept, "application/json");
  if (!body.empty()) {
    request.set(http::field::content_type, "application/json");
    request.body() = std::string(body);
  }
  request.prepare_payload();
  return request;
}

absl::StatusOr<std::string> BodyOf(absl::StatusOr<ClientResponse> response) {
  if (!response.ok()) return response.status();
  if (response->status / 100 == 2) return std::move(response->body);
  return absl::InvalidArgumentError(FaultMessage(*response));
}

}  // namespace

class Client::Impl {
 public:
  explicit Impl(std::chrono::milliseconds limit) : limit_(limit) {}

  absl::Status Connect(const std::string& path) {
    ErrorCode error;
    if (path.size() > 107) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": too long for a socket"));
    }
    socket_.connect(asio::local::stream_protocol::endpoint(path), error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("connect to ", path, ": ", error.message()));
  }

  absl::Status ConnectTcp(const std::string& address,
                          const std::string& token) {
    ASSIGN_OR_RETURN(TcpAddress to, ParseTcpAddress(address));
    ErrorCode error;
    socket_.connect({to.raw(), to.size, IPPROTO_TCP}, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("connect to ", address, ": ", error.message()));
    }
    socket_.set_option(asio::ip::tcp::no_delay(true), error);
    authorization_ = absl::StrCat("Bearer ", token);
    return absl::OkStatus();
  }

  http::request<http::string_body> Request(absl::string_view method,
                                           absl::string_view target,
                                           absl::string_view body) const {
    auto request = MakeRequest(method, target, body);
    if (!authorization_.empty()) {
      request.set(http::field::authorization, authorization_);
    }
    return request;
  }

  // Runs one operation to its end or to the limit.
  absl::Status Finish(const std::optional<ErrorCode>& result) {
    context_.restart();
    const auto end = std::chrono::steady_clock::now() + limit_;
    while (!result.has_value() && context_.run_one_until(end) > 0) {
    }
    if (!result.has_value()) {
      ErrorCode ignored;
      socket_.close(ignored);
      context_.restart();
      context_.run();
      return absl::DeadlineExceededError("the server does not answer");
    }
    if (*result) {
      return absl::UnavailableError(
          absl::StrCat("the connection broke: ", result->message()));
    }
    return absl::OkStatus();
  }

  absl::Status Send(const http::request<http::string_body>& request) {
    std::optional<ErrorCode> result;
    http::async_write(socket_, request,
                      [&](ErrorCode error, size_t) { result = error; });
    return Finish(result);
  }

  absl::StatusOr<ClientResponse> Call(
      const http::request<http::string_body>& request) {
    // A server that refuses early answers before all is written.
    const absl::Status sent = Send(request);
    http::response_parser<http::string_body> parser;
    parser.body_limit(kBodyLimit);
    std::optional<ErrorCode> result;
    http::async_read(socket_, buffer_, parser,
                     [&](ErrorCode error, size_t) { result = error; });
    const absl::Status received = Finish(result);
    if (!received.ok()) return sent.ok() ? received : sent;
    return ClientResponse{static_cast<int>(parser.get().result_int()),
                          std::move(parser.get().body())};
  }

  absl::Status Stream(const http::request<http::string_body>& request,
                      const std::function<bool(absl::string_view)>& on_line) {
    RETURN_IF_ERROR(Send(request));
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    ErrorCode error;
    http::read_header(socket_, buffer_, parser, error);
    if (error || parser.get().result() != http::status::ok) {
      return absl::UnavailableError(
          error ? absl::StrCat("the connection broke: ", error.message())
                : absl::StrCat("the server answered ",
                               parser.get().result_int()));
    }
    std::string line;
    while (!parser.is_done()) {
      char part[4096];
      parser.get().body().data = part;
      parser.get().body().size = sizeof(part);
      http::read_some(socket_, buffer_, parser, error);
      const size_t got = sizeof(part) - parser.get().body().size;
      for (char c : absl::string_view(part, got)) {
        if (c != '\n') {
          if (line.size() == kBodyLimit) {
            return absl::UnavailableError("the server sends an endless line");
          }
          line += c;
          continue;
        }
        if (!on_line(line)) return absl::OkStatus();
        line.clear();
      }
      if (error && error != http::error::need_buffer) break;
    }
    return absl::UnavailableError("the server ended the stream");
  }

 private:
  const std::chrono::milliseconds limit_;
  asio::io_context context_{1};
  asio::generic::stream_protocol::socket socket_{context_};
  std::string authorization_;
  boost::beast::flat_buffer buffer_;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(
    const std::string& socket_path, std::chrono::milliseconds limit) {
  auto impl = std::make_unique<Impl>(limit);
  RETURN_IF_ERROR(impl->Connect(socket_path));
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<Client>> Client::ConnectTcp(
    const std::string& address, const std::string& token,
    std::chrono::milliseconds limit) {
  auto impl = std::make_unique<Impl>(limit);
  RETURN_IF_ERROR(impl->ConnectTcp(address, token));
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

absl::StatusOr<ClientResponse> Client::Call(absl::string_view method,
                                            absl::string_view target,
                                            absl::string_view body) {
  return impl_->Call(impl_->Request(method, target, body));
}

absl::StatusOr<std::string> Client::Invoke(absl::string_view operation) {
  return Invoke(operation, nullptr, nullptr);
}

absl::StatusOr<std::string> Client::Invoke(absl::string_view operation,
                                           const Json& parameters,
                                           const Json& body) {
  ASSIGN_OR_RETURN(const ClientRequest request,
                   RequestOf(operation, parameters, body));
  return BodyOf(Call(request.method, request.target, request.body));
}

absl::StatusOr<std::string> Client::Get(absl::string_view target) {
  return BodyOf(Call("GET", target));
}

absl::Status Client::Stream(
    absl::string_view target,
    const std::function<bool(absl::string_view)>& on_line) {
  return impl_->Stream(impl_->Request("GET", target, ""), on_line);
}

std::string FaultMessage(const ClientResponse& response) {
  auto json = ParseJson(response.body);
  if (json.ok() && json->is_object() && json->contains("fault_message") &&
      (*json)["fault_message"].is_string()) {
    return (*json)["fault_message"].get<std::string>();
  }
  return absl::StrCat("status ", response.status, " ", response.body);
}

}  // namespace cloister::api
