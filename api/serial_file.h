// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_SERIAL_FILE_H_
#define CLOISTER_API_SERIAL_FILE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/api/json.h"
#include "cloister/api/output_file.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/devices/serial.h"

namespace cloister::api {

// The serial port's output on its way to a file or named pipe: what PUT /serial
// describes. Never makes a vCPU wait; what the limit or a pipe has no room for
// is dropped and counted. Thread-safe.
class SerialFile : public devices::SerialSink {
 public:
  // Opens what a SerialDevice object (of the schema) names; null if it names
  // nothing. An error names serial_out_path.
  static absl::StatusOr<std::unique_ptr<SerialFile>> Open(const Json& serial);

  size_t Write(absl::Span<const uint8_t> bytes) override;
  uint64_t dropped() const { return dropped_.load() + file_->dropped_bytes(); }

 private:
  explicit SerialFile(std::unique_ptr<OutputFile> file)
      : file_(std::move(file)) {}

  const std::unique_ptr<OutputFile> file_;
  base::Mutex mutex_;
  std::optional<devices::TokenBucket> bucket_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> dropped_{0};
};

}  // namespace cloister::api

#endif  // CLOISTER_API_SERIAL_FILE_H_
