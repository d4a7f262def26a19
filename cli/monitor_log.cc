// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/monitor_log.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/base/status_macros.h"
#include "cloister/cli/sandbox/refusal_handler.h"

namespace cloister::cli {
namespace {

// A guest can cause lines: not more of them than this.
constexpr int kLinesPerSecond = 100;

// What stands around time and message in the lines of LogTarget::Format.
RefusalLog RefusalLogFor(const std::string& id, api::LogTarget::File file) {
  RefusalLog log;
  log.fd = std::move(file.fd);
  if (file.json) {
    log.before_time = "{\"time\":\"";
    log.before_message = absl::StrCat(
        "\",\"level\":\"error\",\"id\":", api::JsonText(id), ",\"message\":\"");
    log.after_message = "\"}\n";
  } else {
    log.before_message =
        absl::StrCat(" [", id, file.show_level ? ":error] " : "] ");
    log.after_message = "\n";
  }
  return log;
}

}  // namespace

MonitorLog::MonitorLog(std::string id, base::LogLevel minimum)
    : id_(std::move(id)),
      target_(id_, &events_),
      log_(target_.Sink(), minimum, kLinesPerSecond) {}

MonitorLog::~MonitorLog() { SetRefusalLog(RefusalLog()); }

absl::Status MonitorLog::Configure(const api::Json& logger) {
  RETURN_IF_ERROR(target_.Configure(logger));
  // From now on the target knows what is worth a line.
  if (logger.contains("level")) log_.set_minimum(base::LogLevel::kDebug);
  ASSIGN_OR_RETURN(api::LogTarget::File file, target_.DuplicateFile());
  if (file.fd.valid()) SetRefusalLog(RefusalLogFor(id_, std::move(file)));
  return absl::OkStatus();
}

void MonitorLog::Fail(absl::string_view message) {
  log_.Error(message);
  auto file = target_.DuplicateFile();
  if (file.ok() && file->fd.valid()) {
    base::StderrSink()(base::LogLevel::kError, message);
  }
}

std::string WithLogOptions(const std::string& config,
                           const LogOptions& options) {
  auto json = api::ParseJson(config);
  if (!json.ok() || !json->is_object()) return config;
  const bool has_logger =
      json->contains("logger") && (*json)["logger"].is_object();
  if (options.wants_logger() || has_logger) {
    api::Json& logger = (*json)["logger"];
    if (logger.is_null()) logger = api::Json::object();
    // A section of another kind is a mistake for others to find.
    if (!logger.is_object()) return config;
    if (!options.path.empty()) logger["log_path"] = options.path;
    if (options.show_level) logger["show_level"] = true;
    if (!options.level.empty()) {
      logger["level"] = options.level;
    } else if (!logger.contains("level")) {
      logger["level"] = std::string(base::LogLevelName(options.minimum));
    }
  }
  if (!options.metrics_path.empty()) {
    api::Json& metrics = (*json)["metrics"];
    if (metrics.is_null()) metrics = api::Json::object();
    if (!metrics.is_object()) return config;
    metrics["metrics_path"] = options.metrics_path;
  }
  return api::JsonText(*json);
}

absl::Status NameLogOptions(const absl::Status& status,
                            const LogOptions& options) {
  if (status.ok()) return status;
  std::string message(status.message());
  if (!options.path.empty()) {
    message = absl::StrReplaceAll(message, {{"logger: log_path", "--log-path"},
                                            {"log_path: ", "--log-path: "}});
  }
  if (!options.metrics_path.empty()) {
    message = absl::StrReplaceAll(message,
                                  {{"metrics: metrics_path", "--metrics-path"},
                                   {"metrics_path: ", "--metrics-path: "}});
  }
  return absl::Status(status.code(), message);
}

}  // namespace cloister::cli
