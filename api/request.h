// SPDX-License-Identifier: Apache-2.0
//
// The client's half of the schema: requests as the server will take them. A
// request that this accepts may still be refused, for the state of the VM or
// for what only the host knows; one that this refuses would have been refused.
#ifndef CLOISTER_API_REQUEST_H_
#define CLOISTER_API_REQUEST_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/schema.h"

namespace cloister::api {

struct ClientRequest {
  std::string method;  // "PUT"
  std::string target;  // "/drives/rootfs"
  std::string body;    // JSON; empty: none
};

// The request of an operation, by its id in the schema ("putDrive").
// `parameters` is an object with what the path's braces stand for and with the
// query's fields, or null; `body` is null where there is none. InvalidArgument,
// with one line that names the field, for what the schema does not allow;
// Unimplemented for operations that the server lacks.
absl::StatusOr<ClientRequest> RequestOf(absl::string_view operation,
                                        const Json& parameters,
                                        const Json& body);

// Whether the schema allows a request that was put together otherwise. Errors
// as above; NotFound if there is no such method and path.
absl::Status CheckRequest(const ClientRequest& request);

// The paths that `method` may ask for, in the schema's order, without those
// that the server lacks.
std::vector<absl::string_view> PathsOf(Method method);

}  // namespace cloister::api

#endif  // CLOISTER_API_REQUEST_H_
