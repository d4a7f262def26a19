// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/tcp_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace cloister::api {

bool TcpAddress::IsLoopback() const {
  if (storage.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
    return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
  return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

absl::StatusOr<TcpAddress> ParseTcpAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  TcpAddress address;
  if (colon != absl::string_view::npos &&
      absl::SimpleAtoi(text.substr(colon + 1), &port) && port <= UINT16_MAX) {
    absl::string_view host = text.substr(0, colon);
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    if (absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]")) {
      if (::inet_pton(AF_INET6, std::string(host).c_str(), &v6->sin6_addr) ==
          1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(static_cast<uint16_t>(port));
        address.size = sizeof(*v6);
      }
    } else if (::inet_pton(AF_INET, std::string(host).c_str(), &v4->sin_addr) ==
               1) {
      v4->sin_family = AF_INET;
      v4->sin_port = htons(static_cast<uint16_t>(port));
      address.size = sizeof(*v4);
    }
  }
  if (address.size != 0) return address;
  return absl::InvalidArgumentError(absl::StrCat(
      text, ": expected an address and a port, such as 127.0.0.1:8080"));
}

}  // namespace cloister::api
