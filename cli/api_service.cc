// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/api_service.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/http.h"
#include "cloister/api/json.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/version.h"
#include "cloister/cli/doctor_command.h"
#include "cloister/cli/token_file.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vmm/host_report.h"

namespace cloister::cli {
namespace {

// An answer that a file could not be opened for lack of rights says who lacks
// them.
api::HttpResponse WithHint(api::HttpResponse response,
                           const std::string& hint) {
  if (hint.empty() || response.status != 400 ||
      (!absl::StrContains(response.body, "(EACCES)") &&
       !absl::StrContains(response.body, "(EPERM)"))) {
    return response;
  }
  auto json = api::ParseJson(response.body);
  if (!json.ok() || !json->is_object()) return response;
  return api::Fault(400, absl::StrCat(json->value("fault_message", ""), hint));
}

api::ServerOptions ServerOptionsOf(const ApiOptions& options,
                                   api::Controller* controller) {
  api::ServerOptions server;
  server.max_connections = options.max_connections;
  server.header_limit = static_cast<uint32_t>(options.max_header);
  server.body_limit = options.max_body;
  server.idle = std::chrono::milliseconds(options.idle_ms);
  server.tick = [controller] { controller->Tick(); };
  return server;
}

}  // namespace

ApiService::ApiService(const ApiOptions& options, Parts parts)
    : options_(options),
      denied_hint_(std::move(parts.denied_hint)),
      machine_({parts.id, parts.hooks, std::move(parts.before_start)}),
      controller_(
          &machine_, parts.events, &counters_,
          {.id = parts.id,
           .version = base::kVersion,
           .process_start = parts.process_start,
           .capabilities =
               [] { return DoctorJson(vmm::ExamineHost(KickSignal())); },
           .configure_log = std::move(parts.configure_log)}) {}

ApiService::~ApiService() { Stop(); }

absl::StatusOr<std::unique_ptr<ApiService>> ApiService::Create(
    ApiOptions options, Parts parts) {
  std::unique_ptr<ApiService> service(
      new ApiService(options, std::move(parts)));
  RETURN_IF_ERROR(service->Open());
  return service;
}

absl::Status ApiService::Open() {
  ASSIGN_OR_RETURN(server_, api::Server::Create(
                                ServerOptionsOf(options_, &controller_),
                                [this](const api::HttpRequest& request,
                                       api::HttpReply reply) {
                                  Handle(request, std::move(reply));
                                },
                                &counters_));
  if (!options_.socket.empty()) {
    ASSIGN_OR_RETURN(socket_,
                     api::SocketFile::Create(options_.socket, options_.mode));
    RETURN_IF_ERROR(server_->AddListener(socket_->fd()));
  }
  if (options_.tcp.empty()) return absl::OkStatus();
  if (options_.token_file.empty()) {
    return absl::InvalidArgumentError("--api-tcp: needs --api-token-file");
  }
  ASSIGN_OR_RETURN(std::string token, ReadTokenFile(options_.token_file));
  absl::StatusOr<base::UniqueFd> tcp = api::ListenLoopback(options_.tcp);
  if (!tcp.ok()) {
    return absl::Status(tcp.status().code(),
                        absl::StrCat("--api-tcp ", tcp.status().message()));
  }
  tcp_ = *std::move(tcp);
  ASSIGN_OR_RETURN(tcp_address_, api::LocalAddress(tcp_.get()));
  return server_->AddListener(tcp_.get(), token);
}

void ApiService::Handle(const api::HttpRequest& request, api::HttpReply reply) {
  if (denied_hint_.empty())
    return controller_.Handle(request, std::move(reply));
  controller_.Handle(request, [reply = std::move(reply), hint = denied_hint_](
                                  api::HttpResponse response) {
    reply(WithHint(std::move(response), hint));
  });
}

absl::Status ApiService::Start(std::function<void()> on_thread) {
  return server_->Start(std::move(on_thread));
}

void ApiService::Stop() {
  if (server_ != nullptr) server_->Stop();
  tcp_.reset();
  socket_.reset();
}

}  // namespace cloister::cli
