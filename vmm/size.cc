// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/size.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace cloister::vmm {
namespace {

constexpr absl::string_view kUnits = "KMGT";

// The power of two that a suffix such as "m" or "mib" stands for, or -1.
int SuffixShift(absl::string_view suffix) {
  if (suffix.empty() || absl::EqualsIgnoreCase(suffix, "b")) return 0;
  size_t unit = kUnits.find(absl::ascii_toupper(suffix[0]));
  if (unit == absl::string_view::npos) return -1;
  suffix.remove_prefix(1);
  if (!suffix.empty() && !absl::EqualsIgnoreCase(suffix, "ib")) return -1;
  return 10 * (static_cast<int>(unit) + 1);
}

bool ParseNumber(absl::string_view digits, uint64_t* number) {
  if (absl::ConsumePrefix(&digits, "0x")) {
    return !digits.empty() && absl::ascii_isxdigit(digits[0]) &&
           absl::SimpleHexAtoi(digits, number);
  }
  return !digits.empty() && absl::ascii_isdigit(digits[0]) &&
         absl::SimpleAtoi(digits, number);
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  auto error = [text] {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::CHexEscape(text.substr(0, 64)),
                     "\" is not a size such as 512M, 2GiB or 0x20000000"));
  };
  size_t end = 0;
  if (absl::StartsWith(text, "0x")) {
    end = 2;
    while (end < text.size() && absl::ascii_isxdigit(text[end])) ++end;
  } else {
    while (end < text.size() && absl::ascii_isdigit(text[end])) ++end;
  }
  uint64_t number = 0;
  int shift = SuffixShift(text.substr(end));
  if (shift < 0 || !ParseNumber(text.substr(0, end), &number)) return error();
  if (shift > 0 && (number >> (64 - shift)) != 0) return error();
  return number << shift;
}

std::string FormatSize(uint64_t bytes) {
  constexpr std::array<const char*, 5> kNames = {"B", "KiB", "MiB", "GiB",
                                                 "TiB"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < kNames.size()) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(bytes, " ", kNames[unit]);
}

}  // namespace cloister::vmm
