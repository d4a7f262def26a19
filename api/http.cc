// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/http.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace cloister::api {

HttpResponse Fault(int status, absl::string_view message) {
  HttpResponse response;
  response.status = status;
  response.body = JsonText({{"fault_message", std::string(message)}});
  return response;
}

HttpResponse Refusal(const absl::Status& status) {
  return Fault(
      status.code() == absl::StatusCode::kResourceExhausted ? 503 : 400,
      status.message());
}

HttpResponse NoContentOr(const absl::Status& status) {
  return status.ok() ? HttpResponse() : Refusal(status);
}

HttpResponse OkJson(const Json& json) {
  return OkText(JsonText(json), "application/json");
}

HttpResponse OkText(std::string text, absl::string_view content_type) {
  HttpResponse response;
  response.status = 200;
  response.content_type = std::string(content_type);
  response.body = std::move(text);
  return response;
}

}  // namespace cloister::api
