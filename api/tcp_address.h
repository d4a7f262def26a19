// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_TCP_ADDRESS_H_
#define CLOISTER_API_TCP_ADDRESS_H_

#include <sys/socket.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cloister::api {

// An address and a port, as system calls take them.
struct TcpAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  const sockaddr* raw() const {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
  bool IsLoopback() const;
};

// Reads "127.0.0.1:8080" or "[::1]:80"; no names are looked up.
// InvalidArgument, with the text, for anything else.
absl::StatusOr<TcpAddress> ParseTcpAddress(absl::string_view text);

}  // namespace cloister::api

#endif  // CLOISTER_API_TCP_ADDRESS_H_
