// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_SERVER_H_
#define CLOISTER_API_SERVER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/api/http.h"
#include "cloister/api/metrics.h"
#include "cloister/base/unique_fd.h"

namespace cloister::api {

struct ServerOptions {
  size_t max_connections = 64;       // of a listener; one more is answered 503
  uint32_t header_limit = 16 << 10;  // bytes of a request's head; else 431
  uint64_t body_limit = 51200;       // bytes of its body; else 413
  // For a whole request to arrive, and for its answer to be taken; a
  // connection without a request is closed after it.
  std::chrono::milliseconds idle = std::chrono::seconds(5);
  // For the handler to answer; else 503, and the late answer is dropped.
  std::chrono::milliseconds answer = std::chrono::seconds(60);
  // For a reader of events to take some, when there are some.
  std::chrono::milliseconds stall = std::chrono::seconds(30);
  // Called on the server's thread, ten times a second; may be empty.
  std::function<void()> tick;
};

// HTTP/1.1 (RFC 9112) on listening sockets: keep-alive, pipelining, chunked
// bodies, Expect: 100-continue. Everything that comes is hostile; what it may
// cost is bounded by ServerOptions. One thread serves all connections.
class Server {
 public:
  // `handler` and `counters` must outlive the server's thread; replies may come
  // until the server is destroyed.
  static absl::StatusOr<std::unique_ptr<Server>> Create(ServerOptions options,
                                                        HttpHandler handler,
                                                        ApiCounters* counters);
  // Stops.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves what connects to `listener`, which listens and does not block; it
  // is duplicated. With a token only requests that carry it ("Authorization:
  // Bearer <token>") are served. Before Start.
  absl::Status AddListener(int listener, const std::string& token = "");

  // Starts the thread, which runs `on_thread` first.
  absl::Status Start(std::function<void()> on_thread = nullptr);

  // Closes listeners and idle connections, lets answers that are under way out
  // for up to two seconds, and joins the thread. From another thread; once.
  void Stop();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_SERVER_H_
