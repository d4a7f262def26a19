// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CLIENT_H_
#define CLOISTER_API_CLIENT_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"

namespace cloister::api {

struct ClientResponse {
  int status = 0;
  std::string body;
};

// A client of the API on a Unix socket, or by TCP: one connection, kept alive,
// one request after the other. Not thread-safe.
class Client {
 public:
  // Connects. Unavailable if nobody listens at `socket_path`.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(
      const std::string& socket_path,
      std::chrono::milliseconds limit = std::chrono::seconds(70));
  // As Connect, but by TCP to a numeric address: "127.0.0.1:8080", "[::1]:80".
  // Each request carries the bearer token. InvalidArgument for other addresses.
  static absl::StatusOr<std::unique_ptr<Client>> ConnectTcp(
      const std::string& address, const std::string& token,
      std::chrono::milliseconds limit = std::chrono::seconds(70));
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // An operation of the schema, by its id: what `RequestOf` (api/request.h)
  // makes of the arguments, whose errors come before anything is sent. The
  // answer's body, empty with 204; a refusal is InvalidArgument with the
  // fault_message, all else an error of the connection.
  absl::StatusOr<std::string> Invoke(absl::string_view operation);
  absl::StatusOr<std::string> Invoke(absl::string_view operation,
                                     const Json& parameters, const Json& body);

  // Any request and its answer, whatever its status; nothing is checked. `body`
  // empty: none. Errors are those of the connection, which is then of no more
  // use; DeadlineExceeded after `limit`.
  absl::StatusOr<ClientResponse> Call(absl::string_view method,
                                      absl::string_view target,
                                      absl::string_view body = "");

  // As Call; InvalidArgument with the fault_message unless the status is 2xx.
  absl::StatusOr<std::string> Get(absl::string_view target);

  // GETs a stream and hands on each of its lines, without a limit of time,
  // until `on_line` returns false (OK), or the server ends it (Unavailable).
  absl::Status Stream(absl::string_view target,
                      const std::function<bool(absl::string_view)>& on_line);

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The fault_message of an answer, or its body if there is none.
std::string FaultMessage(const ClientResponse& response);

}  // namespace cloister::api

#endif  // CLOISTER_API_CLIENT_H_
