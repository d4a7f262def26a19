// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CONTROLLER_CALL_H_
#define CLOISTER_API_CONTROLLER_CALL_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "cloister/api/controller.h"

namespace cloister::api {

struct Controller::Call {
  const Endpoint* endpoint = nullptr;
  std::string id;
  Json arguments;
};

// What a request gets that needs a VM, before there is one.
inline absl::Status NotStartedError() {
  return absl::FailedPreconditionError(
      "the VM has not been started: PUT /actions InstanceStart first");
}

}  // namespace cloister::api

#endif  // CLOISTER_API_CONTROLLER_CALL_H_
