// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/http.h"

#include <nlohmann/json.hpp>

#include "cloister/api/json.h"

namespace cloister::api {

HttpResponse Fault(int status, absl::string_view message) {
  HttpResponse response;
  response.status = status;
  response.body = JsonText({{"fault_message", std::string(message)}});
  return response;
}

}  // namespace cloister::api
