// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/api_service.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/base/version.h"
#include "cloister/cli/doctor_command.h"
#include "cloister/cli/vm_process.h"
#include "cloister/vmm/host_report.h"

namespace cloister::cli {
namespace {

constexpr size_t kMinToken = 16;

// A secret in a file that others cannot read.
absl::StatusOr<std::string> ReadToken(const std::string& path) {
  base::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    return base::ErrnoStatus(errno, absl::StrCat("--api-token-file ", path));
  }
  struct stat info = {};
  if (::fstat(fd.get(), &info) < 0 || (info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        "--api-token-file ", path, ": others must not be able to read it"));
  }
  char text[4096];
  const ssize_t size =
      base::RetryOnEintr([&] { return ::read(fd.get(), text, sizeof(text)); });
  if (size < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("--api-token-file ", path));
  }
  const absl::string_view token = absl::StripAsciiWhitespace(
      absl::string_view(text, static_cast<size_t>(size)));
  if (token.size() < kMinToken) {
    return absl::InvalidArgumentError(absl::StrCat("--api-token-file ", path,
                                                   ": a token has ", kMinToken,
                                                   " characters or more"));
  }
  return std::string(token);
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
      machine_({parts.id, parts.hooks}),
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
                                  controller_.Handle(request, std::move(reply));
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
  ASSIGN_OR_RETURN(std::string token, ReadToken(options_.token_file));
  absl::StatusOr<base::UniqueFd> tcp = api::ListenLoopback(options_.tcp);
  if (!tcp.ok()) {
    return absl::Status(tcp.status().code(),
                        absl::StrCat("--api-tcp ", tcp.status().message()));
  }
  tcp_ = *std::move(tcp);
  ASSIGN_OR_RETURN(tcp_address_, api::LocalAddress(tcp_.get()));
  return server_->AddListener(tcp_.get(), token);
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
