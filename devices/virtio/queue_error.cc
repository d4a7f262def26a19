// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/queue_error.h"

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace cloister::devices::virtio {
namespace {

constexpr char kPayloadUrl[] = "cloister/devices/virtio/queue_error";

constexpr std::array<absl::string_view, kQueueErrorCount> kNames = {
    "bad-size",         "misaligned-ring",
    "ring-not-shared",  "buffer-not-shared",
    "table-not-shared", "avail-jump",
    "bad-index",        "loop",
    "bad-indirect",     "bad-order",
    "empty-buffer",     "too-long",
    "bad-request",
};

}  // namespace

absl::string_view QueueErrorName(QueueError error) {
  return kNames[static_cast<size_t>(error)];
}

absl::Status MakeQueueError(QueueError error, absl::string_view detail) {
  absl::Status status = absl::InvalidArgumentError(
      absl::StrCat(QueueErrorName(error), ": ", detail));
  status.SetPayload(kPayloadUrl,
                    absl::Cord(absl::StrCat(static_cast<int>(error))));
  return status;
}

std::optional<QueueError> QueueErrorOf(const absl::Status& status) {
  absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return std::nullopt;
  uint32_t value = 0;
  if (!absl::SimpleAtoi(std::string(*payload), &value) ||
      value >= kQueueErrorCount) {
    return std::nullopt;
  }
  return static_cast<QueueError>(value);
}

}  // namespace cloister::devices::virtio
