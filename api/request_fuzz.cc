// SPDX-License-Identifier: Apache-2.0
//
// Feeds requests to the controller over a fake machine. An input is a list of
// requests, each "METHOD TARGET\nBODY", with a byte 0x1e between them. Whatever
// comes, each is answered once, with 2xx or with 4xx/503 and a fault_message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "cloister/api/controller.h"
#include "cloister/api/fake_machine.h"
#include "cloister/api/http.h"
#include "cloister/api/json.h"

namespace {

using cloister::api::HttpRequest;
using cloister::api::HttpResponse;

HttpRequest Parse(const std::string& text) {
  HttpRequest request;
  const size_t line = text.find('\n');
  const std::string head = text.substr(0, line);
  if (line != std::string::npos) request.body = text.substr(line + 1);
  const size_t space = head.find(' ');
  request.method = head.substr(0, space);
  if (space != std::string::npos) request.target = head.substr(space + 1);
  return request;
}

void Check(const HttpResponse& response) {
  if (response.status == 200 || response.status == 204) return;
  auto json = cloister::api::ParseJson(response.body);
  const bool good = (response.status == 400 || response.status == 503) &&
                    json.ok() && json->contains("fault_message");
  if (!good) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cloister::api::FakeMachine machine;
  cloister::api::EventHub events;
  cloister::api::ApiCounters counters;
  cloister::api::Controller controller(&machine, &events, &counters, {});
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (absl::string_view part : absl::StrSplit(text, '\x1e')) {
    const HttpRequest request = Parse(std::string(part));
    // A file of the fuzzer's choice is not what is tested here.
    if (request.target == "/metrics" && request.method == "PUT") continue;
    auto promise = std::make_shared<std::promise<HttpResponse>>();
    std::future<HttpResponse> answer = promise->get_future();
    controller.Handle(request, [promise](HttpResponse response) {
      promise->set_value(std::move(response));
    });
    Check(answer.get());
    controller.Tick();
  }
  return 0;
}
