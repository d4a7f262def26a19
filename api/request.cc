// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/request.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/validate.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

absl::Status Lacks(const Endpoint& endpoint) {
  return absl::UnimplementedError(
      absl::StrCat("not supported: ", MethodName(endpoint.method), " ",
                   endpoint.path, ". ", endpoint.doc));
}

absl::StatusOr<const Endpoint*> OperationOf(absl::string_view id) {
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.id != id) continue;
    if (endpoint.group == Group::kAbsent) return Lacks(endpoint);
    return &endpoint;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no such operation: ", absl::CHexEscape(id)));
}

// A parameter as it stands in a target. The server decodes no escapes, so what
// would need one cannot be asked for.
absl::StatusOr<std::string> TargetText(const std::string& name,
                                       const Json& value) {
  const std::string text =
      value.is_string() ? value.get<std::string>() : value.dump();
  bool plain = !text.empty();
  for (char c : text) {
    plain = plain && (absl::ascii_isalnum(c) || c == '_' || c == '-');
  }
  if (plain) return text;
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected letters, digits, \"_\" and \"-\", not \"",
                   absl::CHexEscape(text), "\""));
}

absl::StatusOr<std::string> TargetOf(const Endpoint& endpoint,
                                     const Json& parameters) {
  std::string target(endpoint.path);
  const size_t open = target.find('{');
  const std::string id_name =
      open == std::string::npos
          ? std::string()
          : target.substr(open + 1, target.find('}') - open - 1);
  if (!id_name.empty()) {
    if (!parameters.contains(id_name)) {
      return absl::InvalidArgumentError(absl::StrCat(id_name, ": missing"));
    }
    ASSIGN_OR_RETURN(std::string id, TargetText(id_name, parameters[id_name]));
    target.replace(open, target.find('}') - open + 1, id);
  }
  std::string query;
  for (const auto& [name, value] : parameters.items()) {
    if (name == id_name) continue;
    ASSIGN_OR_RETURN(std::string text, TargetText(name, value));
    absl::StrAppend(&query, query.empty() ? "?" : "&", name, "=", text);
  }
  return target + query;
}

}  // namespace

absl::StatusOr<ClientRequest> RequestOf(absl::string_view operation,
                                        const Json& parameters,
                                        const Json& body) {
  ASSIGN_OR_RETURN(const Endpoint* endpoint, OperationOf(operation));
  if (!parameters.is_null() && !parameters.is_object()) {
    return absl::InvalidArgumentError("parameters: expected an object");
  }
  ClientRequest request;
  request.method = std::string(MethodName(endpoint->method));
  ASSIGN_OR_RETURN(
      request.target,
      TargetOf(*endpoint, parameters.is_null() ? Json::object() : parameters));
  if (!body.is_null()) request.body = JsonText(body);
  RETURN_IF_ERROR(CheckRequest(request));
  return request;
}

absl::Status CheckRequest(const ClientRequest& request) {
  std::string id, query;
  ASSIGN_OR_RETURN(const Endpoint* endpoint,
                   FindEndpoint(request.method, request.target, &id, &query));
  if (endpoint->group == Group::kAbsent) return Lacks(*endpoint);
  RETURN_IF_ERROR(ParseQuery(*endpoint, query).status());
  return ParseBody(*endpoint, request.body).status();
}

std::vector<absl::string_view> PathsOf(Method method) {
  std::vector<absl::string_view> paths;
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.method == method && endpoint.group != Group::kAbsent) {
      paths.push_back(endpoint.path);
    }
  }
  return paths;
}

}  // namespace cloister::api
