// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/metrics_target.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/output_file.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {
namespace {

constexpr std::chrono::seconds kInterval(60);

absl::StatusOr<MetricsTarget::Append> OpenFile(const std::string& path) {
  ASSIGN_OR_RETURN(std::shared_ptr<OutputFile> file, OutputFile::Open(path));
  return [file](absl::string_view text) { return file->Offer(text); };
}

}  // namespace

MetricsTarget::MetricsTarget() : MetricsTarget(OpenFile) {}

MetricsTarget::MetricsTarget(Opener opener)
    : opener_(std::move(opener)), last_totals_(std::make_shared<Json>()) {}

absl::Status MetricsTarget::Open(const Json& target) {
  base::MutexLock lock(&file_mutex_);
  if (file_) {
    return absl::FailedPreconditionError("metrics_path: set already");
  }
  auto file = opener_(target["metrics_path"].get<std::string>());
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics_path: ", file.status().message()));
  }
  file_ = *std::move(file);
  target_ = std::make_shared<Json>(target);
  base::MutexLock due_lock(&due_mutex_);
  next_ = std::chrono::steady_clock::now() + kInterval;
  return absl::OkStatus();
}

bool MetricsTarget::is_open() {
  base::MutexLock lock(&due_mutex_);
  return next_.has_value();
}

absl::Status MetricsTarget::NotOpen() {
  return absl::FailedPreconditionError(
      "there is no place for metrics: PUT /metrics first");
}

absl::Status MetricsTarget::Write(const MetricsSnapshot& snapshot) {
  const int64_t utc_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(
          std::chrono::system_clock::now().time_since_epoch())
          .count();
  base::MutexLock lock(&file_mutex_);
  if (!file_) return NotOpen();
  // The rest of a line goes before the next; what does not fit at all, with its
  // differences, goes into a later one.
  rest_.erase(0, file_(rest_));
  Json totals = *last_totals_;
  Json line = MetricsLine(snapshot, utc_ms, &totals);
  if (target_->value("emit_id", false)) line["id"] = snapshot.id;
  if (target_->contains("properties")) {
    line["properties"] = (*target_)["properties"];
  }
  const std::string text = JsonText(line) + "\n";
  const size_t taken = rest_.empty() ? file_(text) : 0;
  if (taken == 0) {
    return absl::UnavailableError("metrics_path: has no room");
  }
  *last_totals_ = std::move(totals);
  rest_ = text.substr(taken);
  return absl::OkStatus();
}

bool MetricsTarget::IsDue(std::chrono::steady_clock::time_point now) {
  base::MutexLock lock(&due_mutex_);
  const bool due = next_.has_value() && now >= *next_;
  if (due) next_ = now + kInterval;
  return due;
}

}  // namespace cloister::api
