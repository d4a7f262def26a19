// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/controller.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/controller_call.h"
#include "cloister/api/convert_request.h"
#include "cloister/api/validate.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

absl::Status Ended() {
  return absl::FailedPreconditionError("the VM has ended");
}

}  // namespace

Controller::Controller(Machine* machine, EventHub* events,
                       ApiCounters* counters, ControllerOptions options)
    : machine_(machine),
      events_(events),
      counters_(counters),
      options_(std::move(options)) {}

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
  if (taken) return;
  if (plan->cancel) plan->cancel();
  counted(Fault(503, "too many requests wait already"));
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
    if (endpoint.when == When::kAfterStart) return NotStartedError();
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
    return Ended();
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
    case Operation::kPatchPolicy:
      if (StartBegun()) return UpdatePolicy(call);
      break;
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
    return Plan{{}, [this, shared] { return NoContentOr(OpenFiles(*shared)); }};
  }
  RETURN_IF_ERROR(Configure(call));
  return Plan();
}

absl::Status Controller::Configure(Call& call) {
  base::MutexLock lock(&mutex_);
  if (state_ != State::kNotStarted || changing_) {
    return absl::FailedPreconditionError(
        "only allowed before the VM is started");
  }
  return config_.Apply(*call.endpoint, call.id, std::move(call.arguments));
}

// On the worker, for a request that came before the start. One that came later
// waits behind it, so the state need not be looked at again: what is open by
// then would have to be taken back.
absl::Status Controller::OpenFiles(Call& call) {
  // What takes effect at once comes first: if it fails nothing is noted.
  if (call.endpoint->operation == Operation::kPutMetrics) {
    RETURN_IF_ERROR(metrics_.Open(call.arguments));
  } else if (options_.configure_log) {
    RETURN_IF_ERROR(options_.configure_log(call.arguments));
  }
  return Note(call);
}

absl::Status Controller::Note(Call& call) {
  base::MutexLock lock(&mutex_);
  return config_.Apply(*call.endpoint, call.id, std::move(call.arguments));
}

absl::StatusOr<Controller::Plan> Controller::Action(const std::string& action) {
  if (action == "InstanceStart") return BeginStart();
  if (action == "FlushMetrics") {
    return Plan{{}, [this] { return NoContentOr(WriteMetrics()); }};
  }
  {
    base::MutexLock lock(&mutex_);
    if (state_ == State::kNotStarted) return NotStartedError();
    if (state_ == State::kEnded) {
      return Ended();
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
  return Plan{{},
              [this] { return NoContentOr(RunStart()); },
              [this] { CancelChange(); }};
}

absl::Status Controller::RunStart() {
  Json config;
  {
    base::MutexLock lock(&mutex_);
    config = config_.json();
  }
  Lifecycle("starting");
  absl::Status status = machine_->Start(config);
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
  return Plan{{},
              [this, pause] { return NoContentOr(RunChange(pause)); },
              [this] { CancelChange(); }};
}

void Controller::CancelChange() {
  base::MutexLock lock(&mutex_);
  changing_ = false;
}

absl::Status Controller::RunChange(bool pause) {
  absl::Status status = pause ? machine_->Pause() : machine_->Resume();
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
  ASSIGN_OR_RETURN(ConvertRequest request, ConvertRequestOf(arguments));
  return Plan{{}, [this, request = std::move(request)] {
                auto bytes = machine_->Convert(request.ranges, request.to,
                                               request.reason);
                if (!bytes.ok()) return Refusal(bytes.status());
                Json json = ConvertedJson(request, *bytes);
                events_->Publish("host_conversion", json);
                return OkJson(json);
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

bool Controller::Started() {
  base::MutexLock lock(&mutex_);
  return state_ != State::kNotStarted;
}

bool Controller::StartBegun() {
  base::MutexLock lock(&mutex_);
  return state_ != State::kNotStarted || changing_;
}

absl::StatusOr<Json> Controller::ChangedPolicy(const Json& change) {
  base::MutexLock lock(&mutex_);
  if (state_ == State::kEnded) return Ended();
  return config_.ChangedPolicy(change);
}

Controller::Plan Controller::UpdatePolicy(Call& call) {
  auto shared = std::make_shared<Call>(std::move(call));
  return Plan{{}, [this, shared] { return NoContentOr(ApplyPolicy(*shared)); }};
}

absl::Status Controller::ApplyPolicy(Call& call) {
  // The start that was under way when the request came has failed: one that
  // waits behind this finds the policy.
  if (!Started()) return Note(call);
  ASSIGN_OR_RETURN(Json policy, ChangedPolicy(call.arguments));
  RETURN_IF_ERROR(machine_->SetPolicy(policy));
  base::MutexLock lock(&mutex_);
  config_.NotePolicy(std::move(policy));
  return absl::OkStatus();
}

absl::Status Controller::LoadConfig(absl::string_view text) {
  ConfigStore loaded;
  RETURN_IF_ERROR(loaded.Load(text));
  const Json& json = loaded.json();
  if (json.contains("logger") && options_.configure_log) {
    RETURN_IF_ERROR(options_.configure_log(json["logger"]));
  }
  if (json.contains("metrics")) RETURN_IF_ERROR(metrics_.Open(json["metrics"]));
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

absl::Status Controller::WriteMetrics() {
  if (!metrics_.is_open()) return MetricsTarget::NotOpen();
  return metrics_.Write(Snapshot());
}

void Controller::FlushMetrics() {
  // Nobody is left to tell if there is no file, or no room in it.
  WriteMetrics().IgnoreError();
}

void Controller::Tick() {
  if (events_->has_listeners()) {
    const MachineStats stats = machine_->Stats();
    if (stats.conversions.has_value()) {
      conversions_.Publish(*stats.conversions, events_);
    }
  }
  if (metrics_.IsDue(std::chrono::steady_clock::now())) {
    worker_.Run([this] { FlushMetrics(); });
  }
}

}  // namespace cloister::api
