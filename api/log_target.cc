// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/log_target.h"

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

using base::LogLevel;

// Above every level: nothing is logged.
constexpr int kOff = static_cast<int>(LogLevel::kError) + 1;

int MinimumOf(const std::string& level) {
  if (level == "Error") return static_cast<int>(LogLevel::kError);
  if (level == "Warning") return static_cast<int>(LogLevel::kWarning);
  if (level == "Info") return static_cast<int>(LogLevel::kInfo);
  if (level == "Off") return kOff;
  return static_cast<int>(LogLevel::kDebug);
}

// "2026-11-21T05:41:31.123456Z".
std::string Timestamp(int64_t utc_us) {
  const std::time_t seconds = static_cast<std::time_t>(utc_us / 1000000);
  std::tm parts = {};
  ::gmtime_r(&seconds, &parts);
  return absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
                         parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                         parts.tm_hour, parts.tm_min, parts.tm_sec,
                         utc_us % 1000000);
}

}  // namespace

LogTarget::LogTarget(std::string id, EventHub* events)
    : id_(std::move(id)), events_(events) {}

base::Logger::Sink LogTarget::Sink() {
  return [this](LogLevel level, absl::string_view line) { Write(level, line); };
}

absl::Status LogTarget::Configure(const Json& logger) {
  std::unique_ptr<OutputFile> file;
  if (logger.contains("log_path")) {
    auto opened = OutputFile::Open(logger["log_path"].get<std::string>());
    if (!opened.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("log_path: ", opened.status().message()));
    }
    file = *std::move(opened);
  }
  base::MutexLock lock(&mutex_);
  if (file != nullptr) file_ = std::move(file);
  if (logger.contains("level")) {
    minimum_ = MinimumOf(logger["level"].get<std::string>());
  }
  show_level_ = logger.value("show_level", show_level_);
  if (logger.contains("format")) json_ = logger["format"] == "json";
  return absl::OkStatus();
}

absl::StatusOr<LogTarget::File> LogTarget::DuplicateFile() {
  base::MutexLock lock(&mutex_);
  File file;
  file.show_level = show_level_;
  file.json = json_;
  if (file_ != nullptr) {
    ASSIGN_OR_RETURN(file.fd, file_->Duplicate());
  }
  return file;
}

std::string LogTarget::Format(absl::string_view id, LogLevel level,
                              absl::string_view message, int64_t utc_us,
                              bool show_level, bool json) {
  if (json) {
    return JsonText({{"time", Timestamp(utc_us)},
                     {"level", std::string(base::LogLevelName(level))},
                     {"id", std::string(id)},
                     {"message", std::string(message)}}) +
           "\n";
  }
  return absl::StrCat(
      Timestamp(utc_us), " [", id,
      show_level ? absl::StrCat(":", base::LogLevelName(level)) : std::string(),
      "] ", message, "\n");
}

void LogTarget::Write(LogLevel level, absl::string_view message) {
  {
    base::MutexLock lock(&mutex_);
    if (static_cast<int>(level) < minimum_) return;
    if (file_ == nullptr) {
      stderr_(level, message);
    } else {
      const int64_t now =
          std::chrono::duration_cast<std::chrono::microseconds>(
              std::chrono::system_clock::now().time_since_epoch())
              .count();
      file_->Write(Format(id_, level, message, now, show_level_, json_));
    }
  }
  if (events_ != nullptr && level >= LogLevel::kWarning) {
    events_->Publish("log", {{"level", std::string(base::LogLevelName(level))},
                             {"message", std::string(message)}});
  }
}

}  // namespace cloister::api
