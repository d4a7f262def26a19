// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/controller.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/api/memory_map_svg.h"
#include "cloister/api/memory_view.h"
#include "cloister/api/openapi.h"
#include "cloister/api/validate.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

using memory::GuestAddress;
using memory::GuestRange;

constexpr std::chrono::seconds kMetricsInterval(60);

HttpResponse Ok(const Json& json) {
  HttpResponse response;
  response.status = 200;
  response.body = JsonText(json);
  return response;
}

HttpResponse OkText(std::string text, absl::string_view content_type) {
  HttpResponse response;
  response.status = 200;
  response.content_type = std::string(content_type);
  response.body = std::move(text);
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

absl::Status NotStarted() {
  return absl::FailedPreconditionError(
      "the VM has not been started: PUT /actions InstanceStart first");
}

absl::StatusOr<GuestRange> RangeOf(uint64_t start, uint64_t size) {
  auto range = GuestRange::CreatePageAligned(GuestAddress(start), size);
  if (!range.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("gpa, len: ", range.status().message()));
  }
  return range;
}

}  // namespace

struct Controller::Call {
  const Endpoint* endpoint = nullptr;
  std::string id;
  Json arguments;
};

Controller::Controller(Machine* machine, EventHub* events,
                       ApiCounters* counters, ControllerOptions options)
    : machine_(machine),
      events_(events),
      counters_(counters),
      options_(std::move(options)),
      last_totals_(std::make_shared<Json>()),
      last_conversions_(std::make_shared<Json>(Json::object())) {}

Controller::~Controller() = default;

void Controller::Handle(const HttpRequest& request, HttpReply reply) {
  absl::StatusOr<Call> call = Parse(request);
  if (!call.ok()) {
    ++counters_->bad_requests;
    return reply(Refusal(call.status()));
  }
  auto* counter =
      &counters_->by_method[static_cast<size_t>(call->endpoint->method)];
  ++counter->count;
  auto counted = [reply = std::move(reply), counter](HttpResponse response) {
    if (response.status >= 400) ++counter->failed;
    reply(std::move(response));
  };
  absl::StatusOr<Plan> plan = Serve(*call);
  if (!plan.ok()) return counted(Refusal(plan.status()));
  if (!plan->task) return counted(std::move(plan->response));
  const bool taken =
      worker_.Run([task = std::move(plan->task), counted] { counted(task()); });
  if (!taken) counted(Fault(503, "too many requests wait already"));
}

absl::StatusOr<Controller::Call> Controller::Parse(const HttpRequest& request) {
  Call call;
  std::string query;
  ASSIGN_OR_RETURN(call.endpoint, FindEndpoint(request.method, request.target,
                                               &call.id, &query));
  if (call.endpoint->operation == Operation::kNotSupported) {
    return absl::UnimplementedError(
        absl::StrCat("not supported: ", request.method, " ",
                     call.endpoint->path, ". ", call.endpoint->doc));
  }
  ASSIGN_OR_RETURN(Json arguments, ParseQuery(*call.endpoint, query));
  ASSIGN_OR_RETURN(call.arguments, ParseBody(*call.endpoint, request.body));
  for (auto& [name, value] : arguments.items()) {
    call.arguments[name] = std::move(value);
  }
  return call;
}

absl::Status Controller::CheckState(const Endpoint& endpoint) {
  base::MutexLock lock(&mutex_);
  if (endpoint.when == When::kAny) return absl::OkStatus();
  if (state_ == State::kNotStarted) {
    if (endpoint.when == When::kAfterStart) return NotStarted();
    if (changing_) {
      return absl::FailedPreconditionError("the VM is being started");
    }
    return absl::OkStatus();
  }
  if (endpoint.when == When::kBeforeStart) {
    return absl::FailedPreconditionError(
        "only allowed before the VM is started");
  }
  if (state_ == State::kEnded && endpoint.method != Method::kGet) {
    return absl::FailedPreconditionError("the VM has ended");
  }
  return absl::OkStatus();
}

absl::StatusOr<Controller::Plan> Controller::Serve(Call& call) {
  RETURN_IF_ERROR(CheckState(*call.endpoint));
  switch (call.endpoint->operation) {
    case Operation::kPutAction:
      return Action(call.arguments["action_type"].get<std::string>());
    case Operation::kPatchVm:
      return BeginChange(call.arguments["state"] == "Paused");
    case Operation::kPostConvert:
      return Convert(call.arguments);
    case Operation::kPatchDrive:
      return Update(DeviceKind::kDrive, call);
    case Operation::kPatchNetwork:
      return Update(DeviceKind::kNetwork, call);
    case Operation::kPatchBalloon:
      return Update(DeviceKind::kBalloon, call);
    case Operation::kPatchBalloonStatistics:
      return Update(DeviceKind::kBalloonStatistics, call);
    default:
      break;
  }
  if (call.endpoint->method == Method::kGet) return Observe(call);
  const bool opens_files = call.endpoint->operation == Operation::kPutLogger ||
                           call.endpoint->operation == Operation::kPutMetrics;
  if (opens_files) {
    auto shared = std::make_shared<Call>(std::move(call));
    return Plan{{}, [this, shared] { return NoContentOr(Configure(*shared)); }};
  }
  RETURN_IF_ERROR(Configure(call));
  return Plan();
}

absl::StatusOr<Controller::Plan> Controller::Observe(Call& call) {
  switch (call.endpoint->operation) {
    case Operation::kGetInstance:
      return Plan{Ok({{"app_name", "Cloister"},
                      {"id", options_.id},
                      {"state", state()},
                      {"vmm_version", options_.version}}),
                  {}};
    case Operation::kGetVersion:
      return Plan{Ok({{"firecracker_version", options_.version},
                      {"cloister_version", options_.version}}),
                  {}};
    case Operation::kGetConfidential:
      return Plan{Ok(ConfidentialJson()), {}};
    case Operation::kGetEvents: {
      HttpResponse response = OkText("", std::string(call.endpoint->content));
      response.events = events_;
      return Plan{std::move(response), {}};
    }
    case Operation::kGetMetrics:
      return Plan{Ok(MetricsJson(Snapshot())), {}};
    case Operation::kGetPrometheus:
      return Plan{OkText(PrometheusText(Snapshot()), call.endpoint->content),
                  {}};
    case Operation::kGetOpenApi:
      return Plan{Ok(OpenApiJson(options_.version)), {}};
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
                    return json.ok() ? Ok(*json) : Refusal(json.status());
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
    if (operation == Operation::kGetVmConfig) return Plan{Ok(config), {}};
    if (operation == Operation::kGetMachineConfig) {
      return Plan{Ok(config["machine-config"]), {}};
    }
    if (operation == Operation::kGetPolicy) {
      return Plan{Ok(config["memory-policy"]), {}};
    }
    if (operation == Operation::kGetBalloon) {
      if (config.contains("balloon")) return Plan{Ok(config["balloon"]), {}};
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
  if (states == nullptr) return NotStarted();
  if (operation == Operation::kGetConversions) {
    MachineStats stats = machine_->Stats();
    if (!stats.conversions.has_value()) {
      return absl::FailedPreconditionError("this guest has no private memory");
    }
    return Plan{Ok(ConversionsJson(*stats.conversions)), {}};
  }
  if (operation == Operation::kGetAttributes) {
    const uint64_t gpa = call.arguments.value("gpa", uint64_t{0});
    const uint64_t end = memory::PageStateMap::kEndAddress;
    ASSIGN_OR_RETURN(
        GuestRange range,
        RangeOf(gpa, call.arguments.value(
                         "len", gpa < end ? end - gpa : uint64_t{0})));
    return Plan{Ok(AttributesJson(*states, range)), {}};
  }
  const size_t cells = call.arguments.value("cells", size_t{64});
  return Plan{
      {},
      [this, states, operation, cells,
       content = std::string(call.endpoint->content)] {
        if (operation == Operation::kGetMap) {
          return Ok(MapJson(BuildMap(*states, machine_->Windows(), cells)));
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
  Json json = config_.json()["confidential"];
  if (!backend.empty()) json["backend"] = backend;
  return json;
}

absl::Status Controller::Configure(Call& call) {
  // What takes effect at once comes first: if it fails nothing is noted.
  if (call.endpoint->operation == Operation::kPutMetrics) {
    RETURN_IF_ERROR(OpenMetrics(call.arguments));
  }
  if (call.endpoint->operation == Operation::kPutLogger &&
      options_.configure_log) {
    RETURN_IF_ERROR(options_.configure_log(call.arguments));
  }
  base::MutexLock lock(&mutex_);
  if (state_ != State::kNotStarted || changing_) {
    return absl::FailedPreconditionError(
        "only allowed before the VM is started");
  }
  return config_.Apply(*call.endpoint, call.id, std::move(call.arguments));
}

absl::StatusOr<Controller::Plan> Controller::Action(const std::string& action) {
  if (action == "InstanceStart") return BeginStart();
  if (action == "FlushMetrics") {
    return Plan{{}, [this] { return NoContentOr(WriteMetrics()); }};
  }
  {
    base::MutexLock lock(&mutex_);
    if (state_ == State::kNotStarted) return NotStarted();
    if (state_ == State::kEnded) {
      return absl::FailedPreconditionError("the VM has ended");
    }
  }
  if (action == "InstanceStop") {
    Lifecycle("stop requested");
    machine_->Stop();
    return Plan();
  }
  RETURN_IF_ERROR(machine_->Press(
      action == "SendCtrlAltDel" ? Button::kCtrlAltDel : Button::kPower));
  return Plan();
}

absl::StatusOr<Controller::Plan> Controller::BeginStart() {
  base::MutexLock lock(&mutex_);
  if (state_ != State::kNotStarted) {
    return absl::FailedPreconditionError("the VM has been started already");
  }
  if (changing_) {
    return absl::FailedPreconditionError("the VM is being started");
  }
  RETURN_IF_ERROR(config_.CheckStart());
  changing_ = true;
  return Plan{{}, [this] { return NoContentOr(RunStart()); }};
}

absl::Status Controller::RunStart() {
  Json config;
  {
    base::MutexLock lock(&mutex_);
    config = config_.json();
  }
  Lifecycle("starting");
  const absl::Status status = machine_->Start(config);
  {
    base::MutexLock lock(&mutex_);
    changing_ = false;
    // A guest may be quick: it may have ended before this thread got here.
    if (status.ok() && state_ == State::kNotStarted) state_ = State::kRunning;
  }
  if (status.ok()) {
    Lifecycle("running");
  } else {
    events_->Publish("lifecycle", {{"state", "not started"},
                                   {"error", std::string(status.message())}});
  }
  return status;
}

absl::StatusOr<Controller::Plan> Controller::BeginChange(bool pause) {
  base::MutexLock lock(&mutex_);
  if (changing_) {
    return absl::FailedPreconditionError(
        "the VM is being paused or resumed by another request");
  }
  // As wanted already.
  if ((state_ == State::kPaused) == pause) return Plan();
  changing_ = true;
  return Plan{{}, [this, pause] { return NoContentOr(RunChange(pause)); }};
}

absl::Status Controller::RunChange(bool pause) {
  const absl::Status status = pause ? machine_->Pause() : machine_->Resume();
  {
    base::MutexLock lock(&mutex_);
    changing_ = false;
    if (status.ok() && state_ != State::kEnded) {
      state_ = pause ? State::kPaused : State::kRunning;
    }
  }
  if (status.ok()) Lifecycle(pause ? "paused" : "resumed");
  return status;
}

absl::StatusOr<Controller::Plan> Controller::Convert(const Json& arguments) {
  std::vector<GuestRange> ranges;
  Json listed = Json::array();
  const Json& first = arguments["ranges"][0]["to"];
  for (const Json& entry : arguments["ranges"]) {
    if (entry["to"] != first) {
      return absl::InvalidArgumentError(
          "ranges: \"to\" must be the same in all");
    }
    ASSIGN_OR_RETURN(GuestRange range, RangeOf(entry["gpa"].get<uint64_t>(),
                                               entry["len"].get<uint64_t>()));
    ranges.push_back(range);
    listed.push_back(range.ToString());
  }
  const memory::PageState to = first == "private" ? memory::PageState::kPrivate
                                                  : memory::PageState::kShared;
  const memory::HostConversionReason reason =
      arguments.value("reason", "exchange-window") == "given-up"
          ? memory::HostConversionReason::kGivenUp
          : memory::HostConversionReason::kExchangeWindow;
  return Plan{{}, [this, ranges, listed, to, reason] {
                auto bytes = machine_->Convert(ranges, to, reason);
                if (!bytes.ok()) return Refusal(bytes.status());
                events_->Publish(
                    "host_conversion",
                    {{"ranges", listed},
                     {"to", std::string(memory::PageStateName(to))},
                     {"bytes", *bytes}});
                return Ok({{"bytes", *bytes}});
              }};
}

Controller::Plan Controller::Update(DeviceKind kind, Call& call) {
  return Plan{
      {},
      [this, kind, endpoint = call.endpoint, id = call.id,
       change = std::move(call.arguments)] {
        for (const char* field : {"drive_id", "iface_id"}) {
          if (change.contains(field) && change[field] != id) {
            return Fault(
                400, absl::StrCat(field, ": differs from the one in the path"));
          }
        }
        const absl::Status status = machine_->Update(kind, id, change);
        if (status.ok()) {
          base::MutexLock lock(&mutex_);
          config_.NoteChange(*endpoint, id, change);
        }
        return NoContentOr(status);
      }};
}

absl::Status Controller::LoadConfig(absl::string_view text) {
  ConfigStore loaded;
  RETURN_IF_ERROR(loaded.Load(text));
  const Json& json = loaded.json();
  if (json.contains("logger") && options_.configure_log) {
    RETURN_IF_ERROR(options_.configure_log(json["logger"]));
  }
  if (json.contains("metrics")) RETURN_IF_ERROR(OpenMetrics(json["metrics"]));
  base::MutexLock lock(&mutex_);
  config_ = std::move(loaded);
  return absl::OkStatus();
}

absl::Status Controller::Start() {
  ASSIGN_OR_RETURN(Plan plan, BeginStart());
  return RunStart();
}

void Controller::AdoptRunning() {
  base::MutexLock lock(&mutex_);
  if (state_ == State::kNotStarted) state_ = State::kRunning;
}

void Controller::OnEnd(Json details) {
  {
    base::MutexLock lock(&mutex_);
    state_ = State::kEnded;
  }
  details["state"] = "ended";
  events_->Publish("lifecycle", std::move(details));
}

void Controller::Lifecycle(absl::string_view what) {
  events_->Publish("lifecycle", {{"state", std::string(what)}});
}

std::string Controller::state() {
  base::MutexLock lock(&mutex_);
  switch (state_) {
    case State::kNotStarted:
      return "Not started";
    case State::kPaused:
      return "Paused";
    case State::kRunning:
      return "Running";
    case State::kEnded:
      // Clients know three states; the server is about to leave.
      return "Not started";
  }
  return "";
}

MetricsSnapshot Controller::Snapshot() {
  MetricsSnapshot snapshot;
  snapshot.id = options_.id;
  snapshot.backend = machine_->Backend();
  snapshot.uptime = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - options_.process_start);
  snapshot.machine = machine_->Stats();
  counters_->events_dropped = events_->dropped();
  snapshot.api = counters_;
  return snapshot;
}

absl::Status Controller::OpenMetrics(const Json& target) {
  base::MutexLock lock(&metrics_mutex_);
  if (metrics_ != nullptr) {
    return absl::FailedPreconditionError("metrics_path: set already");
  }
  auto file = OutputFile::Open(target["metrics_path"].get<std::string>());
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics_path: ", file.status().message()));
  }
  metrics_ = *std::move(file);
  metrics_target_ = std::make_shared<Json>(target);
  next_flush_ = std::chrono::steady_clock::now() + kMetricsInterval;
  return absl::OkStatus();
}

absl::Status Controller::WriteMetrics() {
  const MetricsSnapshot snapshot = Snapshot();
  const int64_t utc_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(
          std::chrono::system_clock::now().time_since_epoch())
          .count();
  base::MutexLock lock(&metrics_mutex_);
  if (metrics_ == nullptr) {
    return absl::FailedPreconditionError(
        "there is no place for metrics: PUT /metrics first");
  }
  Json line = MetricsLine(snapshot, utc_ms, last_totals_.get());
  if (metrics_target_->value("emit_id", false)) line["id"] = options_.id;
  if (metrics_target_->contains("properties")) {
    line["properties"] = (*metrics_target_)["properties"];
  }
  const std::string text = JsonText(line) + "\n";
  if (metrics_->Write(text) != text.size()) {
    return absl::UnavailableError("metrics_path: has no room");
  }
  return absl::OkStatus();
}

void Controller::FlushMetrics() {
  // Nobody is left to tell if there is no file, or no room in it.
  WriteMetrics().IgnoreError();
}

void Controller::Tick() {
  if (events_->has_listeners()) PublishConversions();
  bool due = false;
  {
    base::MutexLock lock(&metrics_mutex_);
    const auto now = std::chrono::steady_clock::now();
    due = metrics_ != nullptr && now >= next_flush_;
    if (due) next_flush_ = now + kMetricsInterval;
  }
  if (due) worker_.Run([this] { FlushMetrics(); });
}

void Controller::PublishConversions() {
  const MachineStats stats = machine_->Stats();
  if (!stats.conversions.has_value()) return;
  const memory::ConversionStats& now = *stats.conversions;
  uint64_t requests = 0, to_shared = 0, to_private = 0;
  for (size_t i = 0; i < now.to_shared.size(); ++i) {
    requests += now.to_shared[i].requests + now.to_private[i].requests;
    to_shared += now.to_shared[i].bytes;
    to_private += now.to_private[i].bytes;
  }
  const Json totals = {{"requests", requests},
                       {"to_shared_bytes", to_shared},
                       {"to_private_bytes", to_private},
                       {"failed", now.failed},
                       {"refused", now.refused}};
  if (totals == *last_conversions_) return;
  Json event = {{"private_bytes", now.private_bytes},
                {"shared_bytes", now.shared_bytes},
                {"double_backed_bytes", now.double_backed_bytes}};
  for (const auto& [name, value] : totals.items()) {
    event[name] =
        value.get<uint64_t>() - last_conversions_->value(name, uint64_t{0});
  }
  *last_conversions_ = totals;
  events_->Publish("conversions", std::move(event));
}

}  // namespace cloister::api
