// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_JSON_H_
#define CLOISTER_API_JSON_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cloister::api {

using Json = nlohmann::json;

// Objects and arrays within each other, the outermost counted.
inline constexpr int kMaxJsonDepth = 32;

// Parses one JSON text (RFC 8259) from somebody who may be hostile. Stricter
// than the RFC: a key twice in one object, nesting deeper than kMaxJsonDepth,
// text that is not UTF-8, and anything after the value are errors.
// InvalidArgument with one line that says where; never throws.
absl::StatusOr<Json> ParseJson(absl::string_view text);

// `value` on one line, or indented; bytes that are not UTF-8 are replaced.
std::string JsonText(const Json& value, bool indented = false);

// "0x1000": how answers and events have guest-physical addresses, and lengths
// of ranges.
std::string HexText(uint64_t value);

}  // namespace cloister::api

#endif  // CLOISTER_API_JSON_H_
