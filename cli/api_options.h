// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_API_OPTIONS_H_
#define CLOISTER_CLI_API_OPTIONS_H_

#include <cstdint>
#include <string>

namespace cloister::cli {

// Where and how the API is served.
struct ApiOptions {
  std::string socket;  // empty: not on a Unix socket
  uint32_t mode = 0600;
  std::string tcp;         // a loopback address; empty: not by TCP
  std::string token_file;  // holds the bearer token for TCP
  uint64_t max_connections = 64;
  uint64_t max_header = 16 << 10;
  uint64_t max_body = 51200;
  uint64_t idle_ms = 5000;

  bool wanted() const { return !socket.empty() || !tcp.empty(); }
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_API_OPTIONS_H_
