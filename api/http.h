// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_HTTP_H_
#define CLOISTER_API_HTTP_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/json.h"

namespace cloister::api {

// A request as it came over the wire; nothing of it is checked.
struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // "/memory/attributes?gpa=0"
  std::string body;
};

struct HttpResponse {
  int status = 204;
  std::string content_type = "application/json";
  std::string body;
  // Set: the answer is this hub's events, without end.
  EventHub* events = nullptr;
};

// Answers a request, once, from any thread, now or later.
using HttpReply = std::function<void(HttpResponse)>;
// Serves a request. Called on the server's thread, so it must not wait.
using HttpHandler = std::function<void(const HttpRequest&, HttpReply)>;

// {"fault_message": "..."}.
HttpResponse Fault(int status, absl::string_view message);
// What a request gets that cannot be done: 503 for ResourceExhausted, else 400.
HttpResponse Refusal(const absl::Status& status);
// 204, or the refusal.
HttpResponse NoContentOr(const absl::Status& status);
// 200 with a document.
HttpResponse OkJson(const Json& json);
HttpResponse OkText(std::string text, absl::string_view content_type);

}  // namespace cloister::api

#endif  // CLOISTER_API_HTTP_H_
