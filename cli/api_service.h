// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_API_SERVICE_H_
#define CLOISTER_CLI_API_SERVICE_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/api/controller.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/http.h"
#include "cloister/api/metrics.h"
#include "cloister/api/server.h"
#include "cloister/api/socket_file.h"
#include "cloister/api/vm_machine.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/api_options.h"

namespace cloister::cli {

// The control API of one VM: the machine, its controller, and the server with
// its sockets. Destroying it closes and removes what it made.
class ApiService {
 public:
  struct Parts {
    std::string id;
    std::chrono::steady_clock::time_point process_start;
    vmm::VmHooks hooks;               // for a VM that the API starts
    api::EventHub* events = nullptr;  // outlives the service
    std::function<absl::Status(const api::Json&)> configure_log;
    // As api::VmMachine::Options has it.
    std::function<absl::Status()> before_start;
    // Put after a fault that the process's rights are the cause of.
    std::string denied_hint;
  };

  // Makes the sockets, which needs the rights to, and nothing yet serves.
  static absl::StatusOr<std::unique_ptr<ApiService>> Create(ApiOptions options,
                                                            Parts parts);
  ~ApiService();

  // Serves from now on; `on_thread` runs first on the server's thread.
  absl::Status Start(std::function<void()> on_thread);
  // Ends connections, the events' last line included, and removes the socket.
  void Stop();

  api::Controller& controller() { return controller_; }
  api::VmMachine& machine() { return machine_; }
  // Where TCP listens; empty without.
  const std::string& tcp_address() const { return tcp_address_; }

 private:
  ApiService(const ApiOptions& options, Parts parts);
  absl::Status Open();
  void Handle(const api::HttpRequest& request, api::HttpReply reply);

  const ApiOptions options_;
  const std::string denied_hint_;
  api::ApiCounters counters_;
  std::unique_ptr<api::SocketFile> socket_;
  base::UniqueFd tcp_;
  std::string tcp_address_;
  api::VmMachine machine_;
  std::unique_ptr<api::Server> server_;  // its replies come from below
  api::Controller controller_;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_API_SERVICE_H_
