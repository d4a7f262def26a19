// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/device_options.h"

#include <chrono>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/base/status_macros.h"
#include "cloister/vmm/size.h"

namespace cloister::cli {
namespace {

absl::Status Unknown(absl::string_view part) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", part, "\" is not understood"));
}

// "key=value" or "key", each key at most once.
class Parts {
 public:
  explicit Parts(absl::string_view text) : parts_(absl::StrSplit(text, ',')) {}

  // Calls `take(key, value)` for each part from `first` on.
  template <typename Take>
  absl::Status ForEach(size_t first, Take take) {
    std::set<std::string> seen;
    for (size_t i = first; i < parts_.size(); ++i) {
      std::pair<std::string, std::string> part =
          absl::StrSplit(parts_[i], absl::MaxSplits('=', 1));
      if (!seen.insert(part.first).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(part.first, " is given twice"));
      }
      absl::Status status = take(part.first, part.second);
      if (absl::IsUnimplemented(status)) return Unknown(parts_[i]);
      RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }
  const std::string& front() const { return parts_.front(); }

 private:
  const std::vector<std::string> parts_;
};

absl::Status TakeText(const std::string& key, const std::string& value,
                      std::string& to) {
  if (value.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(key, ": a value is needed"));
  }
  to = value;
  return absl::OkStatus();
}

template <typename T>
absl::Status TakeNumber(const std::string& key, const std::string& value,
                        T& to) {
  if (absl::SimpleAtoi(value, &to)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, "=", value, ": expected a number"));
}

// So much each second, with a second's worth of burst.
absl::Status TakeRate(absl::StatusOr<uint64_t> rate, const std::string& key,
                      devices::TokenBucketConfig& to) {
  if (!rate.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": ", rate.status().message()));
  }
  to.size = *rate;
  to.refill_time = std::chrono::seconds(1);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Count(const std::string& value) {
  uint64_t count = 0;
  if (absl::SimpleAtoi(value, &count) && count != 0) return count;
  return absl::InvalidArgumentError("expected a number");
}

}  // namespace

absl::StatusOr<vmm::DiskConfig> ParseDisk(absl::string_view text) {
  vmm::DiskConfig disk;
  Parts parts(text);
  disk.path = parts.front();
  auto take = [&](const std::string& key,
                  const std::string& value) -> absl::Status {
    const bool flag = value.empty();
    if (flag && key == "ro") {
      disk.read_only = true;
    } else if (flag && key == "direct") {
      disk.direct = true;
    } else if (key == "serial") {
      return TakeText(key, value, disk.serial);
    } else if (key == "id") {
      return TakeText(key, value, disk.id);
    } else if (key == "bps") {
      return TakeRate(vmm::ParseSize(value), key, disk.limit.bandwidth);
    } else if (key == "iops") {
      return TakeRate(Count(value), key, disk.limit.operations);
    } else {
      return absl::UnimplementedError(key);
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(parts.ForEach(1, take));
  return disk;
}

absl::StatusOr<vmm::NetConfig> ParseNet(absl::string_view text) {
  vmm::NetConfig net;
  auto take = [&](const std::string& key,
                  const std::string& value) -> absl::Status {
    if (key == "tap") return TakeText(key, value, net.tap);
    if (key == "fd") return TakeNumber(key, value, net.fd);
    if (key == "mac") return TakeText(key, value, net.mac);
    if (key == "queues") return TakeNumber(key, value, net.queues);
    if (key == "id") return TakeText(key, value, net.id);
    if (key == "bps") {
      return TakeRate(vmm::ParseSize(value), key, net.rx_limit.bandwidth);
    }
    if (key == "pps") {
      return TakeRate(Count(value), key, net.rx_limit.operations);
    }
    return absl::UnimplementedError(key);
  };
  RETURN_IF_ERROR(Parts(text).ForEach(0, take));
  net.tx_limit = net.rx_limit;
  return net;
}

absl::StatusOr<vmm::VsockConfig> ParseVsock(absl::string_view text) {
  vmm::VsockConfig vsock;
  auto take = [&](const std::string& key,
                  const std::string& value) -> absl::Status {
    if (key == "cid") return TakeNumber(key, value, vsock.cid);
    if (key == "path") return TakeText(key, value, vsock.path);
    if (key == "bps") {
      return TakeRate(vmm::ParseSize(value), key, vsock.rx_limit.bandwidth);
    }
    return absl::UnimplementedError(key);
  };
  RETURN_IF_ERROR(Parts(text).ForEach(0, take));
  vsock.tx_limit = vsock.rx_limit;
  return vsock;
}

absl::StatusOr<vmm::BalloonConfig> ParseBalloon(absl::string_view text) {
  vmm::BalloonConfig balloon;
  auto take = [&](const std::string& key,
                  const std::string& value) -> absl::Status {
    if (key == "target") {
      absl::StatusOr<uint64_t> size = vmm::ParseSize(value);
      if (size.ok()) balloon.target = *size;
      return size.status();
    }
    if (key == "stats") return TakeNumber(key, value, balloon.stats_seconds);
    if (!value.empty()) return absl::UnimplementedError(key);
    if (key == "oom") {
      balloon.deflate_on_oom = true;
    } else if (key == "reporting") {
      balloon.reporting = true;
    } else if (!key.empty()) {
      return absl::UnimplementedError(key);
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(Parts(text).ForEach(0, take));
  return balloon;
}

absl::StatusOr<vmm::VirtioTransport> ParseVirtioTransport(
    absl::string_view text) {
  if (text == "pci") return vmm::VirtioTransport::kPci;
  if (text == "mmio") return vmm::VirtioTransport::kMmio;
  if (text == "mmio-fdt") return vmm::VirtioTransport::kMmioFdt;
  return absl::InvalidArgumentError("expected pci, mmio or mmio-fdt");
}

}  // namespace cloister::cli
