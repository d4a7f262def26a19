// SPDX-License-Identifier: Apache-2.0
// What only shows something of the VM and changes nothing.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/controller.h"
#include "cloister/api/controller_call.h"
#include "cloister/api/convert_request.h"
#include "cloister/api/memory_map_svg.h"
#include "cloister/api/memory_view.h"
#include "cloister/api/openapi.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {

absl::StatusOr<Controller::Plan> Controller::Observe(Call& call) {
  switch (call.endpoint->operation) {
    case Operation::kGetInstance:
      return Plan{OkJson({{"app_name", "Cloister"},
                          {"id", options_.id},
                          {"state", state()},
                          {"vmm_version", options_.version}}),
                  {}};
    case Operation::kGetVersion:
      return Plan{OkJson({{"firecracker_version", options_.version},
                          {"cloister_version", options_.version}}),
                  {}};
    case Operation::kGetConfidential:
      return Plan{OkJson(ConfidentialJson()), {}};
    case Operation::kGetEvents: {
      HttpResponse response = OkText("", std::string(call.endpoint->content));
      response.events = events_;
      return Plan{std::move(response), {}};
    }
    case Operation::kGetMetrics:
      return Plan{OkJson(MetricsJson(Snapshot())), {}};
    case Operation::kGetPrometheus:
      return Plan{OkText(PrometheusText(Snapshot()), call.endpoint->content),
                  {}};
    case Operation::kGetOpenApi:
      return Plan{OkJson(OpenApiJson(options_.version)), {}};
    case Operation::kGetCapabilities:
      return Plan{{}, [this] {
                    if (capabilities_.empty()) {
                      capabilities_ = options_.capabilities
                                          ? options_.capabilities()
                                          : "{}";
                    }
                    return OkText(capabilities_, "application/json");
                  }};
    case Operation::kGetBalloonStatistics:
      return Plan{{}, [this] {
                    auto json = machine_->BalloonStatistics();
                    return json.ok() ? OkJson(*json) : Refusal(json.status());
                  }};
    default:
      return ObserveMemory(call);
  }
}

absl::StatusOr<Controller::Plan> Controller::ObserveMemory(Call& call) {
  const Operation operation = call.endpoint->operation;
  {
    base::MutexLock lock(&mutex_);
    const Json& config = config_.json();
    if (operation == Operation::kGetVmConfig) {
      return Plan{OkJson(config_.Shown()), {}};
    }
    if (operation == Operation::kGetMachineConfig) {
      return Plan{OkJson(config["machine-config"]), {}};
    }
    if (operation == Operation::kGetPolicy) {
      return Plan{OkJson(config_.Policy()), {}};
    }
    if (operation == Operation::kGetBalloon) {
      if (config.contains("balloon"))
        return Plan{OkJson(config["balloon"]), {}};
      return absl::NotFoundError("there is no balloon");
    }
    if (operation == Operation::kGetMeasurement) {
      return Plan{{}, [this, config = Json(config)] {
                    auto text = machine_->Measurement(config);
                    return text.ok() ? OkText(*text, "application/json")
                                     : Refusal(text.status());
                  }};
    }
  }
  const memory::PageStateMap* states = machine_->states();
  if (states == nullptr) return NotStartedError();
  if (operation == Operation::kGetConversions) {
    return Plan{{}, [this] {
                  machine_->LookAtMemory();
                  const MachineStats stats = machine_->Stats();
                  return stats.conversions.has_value()
                             ? OkJson(ConversionsJson(*stats.conversions))
                             : Refusal(absl::FailedPreconditionError(
                                   "this guest has no private memory"));
                }};
  }
  if (operation == Operation::kGetAttributes) {
    const uint64_t gpa = call.arguments.value("gpa", uint64_t{0});
    const uint64_t end = memory::PageStateMap::kEndAddress;
    ASSIGN_OR_RETURN(
        memory::GuestRange range,
        PageRangeOf(gpa, call.arguments.value(
                             "len", gpa < end ? end - gpa : uint64_t{0})));
    return Plan{OkJson(AttributesJson(*states, range)), {}};
  }
  const size_t cells = call.arguments.value("cells", size_t{64});
  return Plan{
      {},
      [this, states, operation, cells,
       content = std::string(call.endpoint->content)] {
        if (operation == Operation::kGetMap) {
          return OkJson(MapJson(BuildMap(*states, machine_->Windows(), cells)));
        }
        return OkText(
            MapSvg(BuildMap(*states, machine_->Windows(), kSvgCells),
                   absl::StrCat(options_.id, ": guest-physical memory, ",
                                machine_->Backend())),
            content);
      }};
}

Json Controller::ConfidentialJson() {
  const std::string backend = machine_->Backend();
  base::MutexLock lock(&mutex_);
  Json json = config_.Confidential();
  if (!backend.empty()) json["backend"] = backend;
  return json;
}

}  // namespace cloister::api
