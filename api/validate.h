// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_VALIDATE_H_
#define CLOISTER_API_VALIDATE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/schema.h"

namespace cloister::api {

// Finds the endpoint of a request line. `target` is as it came: a path with an
// optional query. On success `id` is what the path's braces matched and `query`
// the undecoded query. NotFound, naming both, if there is none.
absl::StatusOr<const Endpoint*> FindEndpoint(absl::string_view method,
                                             absl::string_view target,
                                             std::string* id,
                                             std::string* query);

// Checks `value` against `object` and removes null members. InvalidArgument
// with one line that names the field.
absl::Status ValidateObject(const Object& object, Json* value);

// "gpa=0x1000&len=64MiB" as an object for `endpoint`, checked.
absl::StatusOr<Json> ParseQuery(const Endpoint& endpoint,
                                absl::string_view query);

// The body of a request for `endpoint` as an object, checked. `body` may be
// empty where no body is expected.
absl::StatusOr<Json> ParseBody(const Endpoint& endpoint,
                               absl::string_view body);

// Puts the defaults of `object` where `value` has no member.
void AddDefaults(const Object& object, Json* value);

// The way back, for answers: numbers in fields of type kAddress and kSize, also
// of objects within, become "0x...".
void ShowAddresses(const Object& object, Json* value);

// A field of type kAddress or kSize: 4096, "4096", "0x1000" and, for sizes,
// "4KiB". InvalidArgument for anything else.
absl::StatusOr<uint64_t> NumberOf(const Json& value, Type type);

}  // namespace cloister::api

#endif  // CLOISTER_API_VALIDATE_H_
