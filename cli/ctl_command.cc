// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/ctl_command.h"

#include <csignal>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cloister/api/client.h"
#include "cloister/api/json.h"
#include "cloister/api/request.h"
#include "cloister/base/status_macros.h"
#include "cloister/cli/ctl_top.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/token_file.h"

namespace cloister::cli {
namespace {

using api::Client;
using api::Json;

// Verbs that are one operation of the schema with one field.
struct Shorthand {
  const char* verb;
  const char* operation;
  const char* field;
  const char* value;
};
constexpr Shorthand kShorthands[] = {
    {"start", "putAction", "action_type", "InstanceStart"},
    {"stop", "putAction", "action_type", "InstanceStop"},
    {"power-button", "putAction", "action_type", "SendPowerButton"},
    {"ctrl-alt-del", "putAction", "action_type", "SendCtrlAltDel"},
    {"flush-metrics", "putAction", "action_type", "FlushMetrics"},
    {"pause", "patchVm", "state", "Paused"},
    {"resume", "patchVm", "state", "Resumed"},
};

std::string ReadStdin() {
  std::string text;
  char part[4096];
  for (size_t size; (size = std::fread(part, 1, sizeof(part), stdin)) > 0;) {
    text.append(part, size);
    if (text.size() > (1u << 20)) break;
  }
  return text;
}

// JSON indented for people; other text as it is.
std::string Pretty(const std::string& body) {
  auto json = api::ParseJson(body);
  if (!json.ok()) return body;
  return api::JsonText(*json, /*indented=*/true) + "\n";
}

absl::StatusOr<api::ClientRequest> ConvertRequest(const CtlOptions& options) {
  Json json = {{"ranges", Json::array()}, {"reason", options.reason}};
  for (const std::string& range : options.ranges) {
    const std::vector<std::string> parts = absl::StrSplit(range, ',');
    if (parts.size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(range, ": expected GPA,SIZE"));
    }
    json["ranges"].push_back(
        {{"gpa", parts[0]}, {"len", parts[1]}, {"to", options.to}});
  }
  return api::RequestOf("convertMemory", nullptr, json);
}

absl::Status Send(Client& client, const api::ClientRequest& request) {
  ASSIGN_OR_RETURN(api::ClientResponse response,
                   client.Call(request.method, request.target, request.body));
  if (response.status / 100 != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.method, " ", request.target, ": ",
                     api::FaultMessage(response)));
  }
  std::fputs(Pretty(response.body).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status ShowMemory(Client& client) {
  ASSIGN_OR_RETURN(std::string map,
                   client.Invoke("getMemoryMap", {{"cells", 128}}, nullptr));
  absl::StatusOr<std::string> conversions = client.Invoke("getConversions");
  // A guest without private memory has none.
  if (!conversions.ok() && !absl::IsInvalidArgument(conversions.status())) {
    return conversions.status();
  }
  std::fputs(MemoryText(map, conversions.value_or("")).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status ShowEvents(Client& client, uint64_t count) {
  uint64_t seen = 0;
  absl::Status status = client.Stream("/events", [&](absl::string_view line) {
    std::printf("%s\n", std::string(line).c_str());
    // A reader that has left wants no more.
    if (std::fflush(stdout) != 0) return false;
    ++seen;
    return count == 0 || seen < count;
  });
  // The VM has ended: that is how streams end.
  if (absl::IsUnavailable(status) && seen > 0 && count == 0) {
    return absl::OkStatus();
  }
  return status;
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const CtlOptions& options) {
  if (options.tcp.empty()) return Client::Connect(options.socket);
  ASSIGN_OR_RETURN(std::string token, ReadTokenFile(options.token_file));
  return Client::ConnectTcp(options.tcp, token);
}

absl::Status Execute(const CtlOptions& options) {
  // Before connecting, so that a mistake is named first.
  absl::StatusOr<api::ClientRequest> request = api::ClientRequest();
  const bool composite = options.verb == "memory" || options.verb == "events" ||
                         options.verb == "top";
  if (!composite) {
    request = CtlRequestOf(options);
    RETURN_IF_ERROR(request.status());
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Connect(options));
  if (options.verb == "memory") return ShowMemory(*client);
  if (options.verb == "events") return ShowEvents(*client, options.count);
  if (options.verb == "top") {
    return RunTop(*client, std::chrono::milliseconds(options.interval_ms),
                  options.once);
  }
  return Send(*client, *request);
}

std::string Bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return absl::StrFormat("%.4g %s", value, kUnits[unit]);
}

}  // namespace

absl::StatusOr<api::ClientRequest> CtlRequestOf(const CtlOptions& options) {
  for (const Shorthand& shorthand : kShorthands) {
    if (options.verb == shorthand.verb) {
      return api::RequestOf(shorthand.operation, nullptr,
                            {{shorthand.field, shorthand.value}});
    }
  }
  if (options.verb == "convert") return ConvertRequest(options);
  if (options.path.empty() || options.path[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", options.path, "\": a path begins with \"/\""));
  }
  api::ClientRequest request{absl::AsciiStrToUpper(options.verb), options.path,
                             options.body == "-" ? ReadStdin() : options.body};
  RETURN_IF_ERROR(api::CheckRequest(request));
  return request;
}

std::string MemoryText(const std::string& map, const std::string& conversions) {
  auto json = api::ParseJson(map);
  if (!json.ok() || !json->contains("segments")) return map;
  std::string text;
  for (const Json& segment : (*json)["segments"]) {
    absl::StrAppendFormat(&text, "%18s %18s  %s\n", segment.value("gpa", ""),
                          segment.value("len", ""), segment.value("name", ""));
  }
  for (const auto& [name, bytes] : (*json)["bytes"].items()) {
    absl::StrAppendFormat(&text, "%-16s %s\n", name,
                          Bytes(bytes.get<uint64_t>()));
  }
  auto stats = api::ParseJson(conversions);
  if (!stats.ok() || !stats->contains("to_shared")) return text;
  for (const char* way : {"to_shared", "to_private"}) {
    for (const auto& [origin, flow] : (*stats)[way].items()) {
      absl::StrAppendFormat(&text, "%-10s %-9s %8d requests, %s\n", way, origin,
                            flow.value("requests", uint64_t{0}),
                            Bytes(flow.value("bytes", uint64_t{0})));
    }
  }
  return text;
}

int CtlCommand(const CtlOptions& options) {
  const absl::Status status = Execute(options);
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "cloister: %s\n", std::string(status.message()).c_str());
  return kExitError;
}

}  // namespace cloister::cli
