// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/serial_file.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/api/vm_config.h"

namespace cloister::api {

absl::StatusOr<std::unique_ptr<SerialFile>> SerialFile::Open(
    const Json& serial) {
  if (!serial.contains("serial_out_path")) return nullptr;
  auto opened = OutputFile::Open(serial["serial_out_path"].get<std::string>());
  if (!opened.ok()) {
    return absl::Status(
        opened.status().code(),
        absl::StrCat("serial_out_path: ", opened.status().message()));
  }
  std::unique_ptr<SerialFile> file(new SerialFile(*std::move(opened)));
  if (!serial.contains("rate_limiter")) return file;
  const devices::TokenBucketConfig limit =
      TokenBucketFromJson(serial["rate_limiter"]);
  if (limit.size == 0) return file;
  base::MutexLock lock(&file->mutex_);
  file->bucket_.emplace(limit, std::chrono::steady_clock::now());
  return file;
}

size_t SerialFile::Write(absl::Span<const uint8_t> bytes) {
  base::MutexLock lock(&mutex_);
  if (bucket_.has_value()) {
    const auto now = std::chrono::steady_clock::now();
    if (bucket_->Wait(bytes.size(), now).count() > 0) {
      dropped_ += bytes.size();
      return bytes.size();
    }
    bucket_->Take(bytes.size(), now);
  }
  file_->Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return bytes.size();
}

}  // namespace cloister::api
