// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/net_mac.h"

#include <sys/random.h>

#include <cerrno>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::devices::virtio {

absl::StatusOr<NetMac> NetMac::Parse(absl::string_view text) {
  const auto bad = [text](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("mac \"", text, "\" ", why));
  };
  constexpr size_t kLength = 17;
  if (text.size() != kLength)
    return bad("is not of the form 52:54:00:12:34:56");
  std::array<uint8_t, 6> bytes;
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const absl::string_view digits = text.substr(i * 3, 2);
    uint32_t value;
    if (!absl::ascii_isxdigit(digits[0]) || !absl::ascii_isxdigit(digits[1]) ||
        !absl::SimpleHexAtoi(digits, &value) ||
        (i + 1 < bytes.size() && text[i * 3 + 2] != ':')) {
      return bad("is not of the form 52:54:00:12:34:56");
    }
    bytes[i] = static_cast<uint8_t>(value);
    sum += value;
  }
  if (bytes[0] & 1) return bad("is a multicast address");
  if (sum == 0) return bad("is all zeroes");
  return NetMac(bytes);
}

absl::StatusOr<NetMac> NetMac::Random() {
  std::array<uint8_t, 6> bytes;
  // As few bytes as this come whole (getrandom(2)).
  if (::getrandom(bytes.data(), bytes.size(), 0) !=
      static_cast<ssize_t>(bytes.size())) {
    return base::ErrnoStatus(errno, "getrandom");
  }
  bytes[0] = (bytes[0] & 0xfc) | 2;
  return NetMac(bytes);
}

std::string NetMac::ToString() const {
  std::string text;
  for (uint8_t byte : bytes_) {
    absl::StrAppend(&text, text.empty() ? "" : ":",
                    absl::Hex(byte, absl::kZeroPad2));
  }
  return text;
}

}  // namespace cloister::devices::virtio
