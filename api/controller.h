// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CONTROLLER_H_
#define CLOISTER_API_CONTROLLER_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/api/config_store.h"
#include "cloister/api/conversion_events.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/http.h"
#include "cloister/api/json.h"
#include "cloister/api/machine.h"
#include "cloister/api/metrics.h"
#include "cloister/api/metrics_target.h"
#include "cloister/api/schema.h"
#include "cloister/api/worker.h"
#include "cloister/base/mutex.h"

namespace cloister::api {

struct ControllerOptions {
  std::string id = "anonymous-instance";
  std::string version;
  std::chrono::steady_clock::time_point process_start =
      std::chrono::steady_clock::now();
  // GET /capabilities: one JSON object, from the worker; asked for once.
  std::function<std::string()> capabilities;
  // PUT /logger: puts a Logger object (of the schema) into effect.
  std::function<absl::Status(const Json&)> configure_log;
};

// The control API without HTTP: checks requests against the schema and the
// state of the VM, keeps the configuration, and asks the machine for the rest.
// Thread-safe. Handle never waits: what may take long runs on a worker.
class Controller {
 public:
  // All must outlive the controller.
  Controller(Machine* machine, EventHub* events, ApiCounters* counters,
             ControllerOptions options);
  // Waits for the request that the worker has begun; answers none that waits.
  ~Controller();

  // Serves one request.
  void Handle(const HttpRequest& request, HttpReply reply);

  // Reads a --config-file, before the start.
  absl::Status LoadConfig(absl::string_view text);
  // InstanceStart without a client, before any request; waits until it is
  // done.
  absl::Status Start();
  // The machine runs already, started by somebody else with the configuration
  // that was loaded.
  void AdoptRunning();

  // About ten times a second: collects conversions into events, and writes
  // metrics once a minute.
  void Tick();
  // The VM has ended, for the reason that `details` gives.
  void OnEnd(Json details);
  // Writes the last metrics.
  void FlushMetrics();

  std::string state();

 private:
  enum class State { kNotStarted, kRunning, kPaused, kEnded };
  using Task = std::function<HttpResponse()>;

  // A checked request: its endpoint, the id of the path, the body or query.
  struct Call;
  // What serves it: at once, or (the task) on the worker. If the worker does
  // not take the task, `cancel` undoes what the plan has reserved.
  struct Plan {
    HttpResponse response;
    Task task;
    std::function<void()> cancel = nullptr;
  };
  absl::StatusOr<Call> Parse(const HttpRequest& request);
  absl::StatusOr<Plan> Serve(Call& call);
  absl::StatusOr<Plan> Observe(Call& call);
  absl::StatusOr<Plan> ObserveMemory(Call& call);
  absl::Status Configure(Call& call);
  absl::Status OpenFiles(Call& call);
  absl::Status Note(Call& call);
  absl::StatusOr<Plan> Action(const std::string& action);
  absl::StatusOr<Plan> BeginStart();
  absl::StatusOr<Plan> BeginChange(bool pause);
  absl::StatusOr<Plan> Convert(const Json& arguments);
  Plan Update(DeviceKind kind, Call& call);
  Plan UpdatePolicy(Call& call);
  absl::Status ApplyPolicy(Call& call);
  absl::StatusOr<Json> ChangedPolicy(const Json& change);

  bool Started();
  bool StartBegun();
  absl::Status CheckState(const Endpoint& endpoint);
  absl::Status RunStart();
  absl::Status RunChange(bool pause);
  void CancelChange();
  Json ConfidentialJson();
  MetricsSnapshot Snapshot();
  absl::Status WriteMetrics();
  void Lifecycle(absl::string_view what);

  Machine* const machine_;
  EventHub* const events_;
  ApiCounters* const counters_;
  const ControllerOptions options_;

  base::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kNotStarted;
  // A request of the worker's is changing the state.
  bool changing_ ABSL_GUARDED_BY(mutex_) = false;
  ConfigStore config_ ABSL_GUARDED_BY(mutex_);

  MetricsTarget metrics_;
  // The thread that calls Tick only.
  ConversionEvents conversions_;
  // The worker only.
  std::string capabilities_;
  Worker worker_;  // last: its thread uses the others
};

}  // namespace cloister::api

#endif  // CLOISTER_API_CONTROLLER_H_
