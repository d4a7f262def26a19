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
#include "absl/strings/strip.h"
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

absl::StatusOr<uint64_t> Count(const std::string& value) {
  uint64_t count = 0;
  if (absl::SimpleAtoi(value, &count) && count != 0) return count;
  return absl::InvalidArgumentError("expected a number");
}

// "bps=SIZE" and "OPS=N", each with its "_burst": so much each second, which is
// also what may come at once, and so much more once, at the start.
// Unimplemented for other keys. A burst alone is found by CheckLimit.
absl::Status TakeLimit(const std::string& key, const std::string& value,
                       absl::string_view ops, devices::RateLimiterConfig& to) {
  absl::string_view name = key;
  const bool burst = absl::ConsumeSuffix(&name, "_burst");
  const bool bytes = name == "bps";
  if (!bytes && name != ops) return absl::UnimplementedError(key);
  absl::StatusOr<uint64_t> amount =
      bytes ? vmm::ParseSize(value) : Count(value);
  if (!amount.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": ", amount.status().message()));
  }
  devices::TokenBucketConfig& bucket = bytes ? to.bandwidth : to.operations;
  if (burst) {
    bucket.one_time_burst = *amount;
  } else {
    bucket.size = *amount;
    bucket.refill_time = std::chrono::seconds(1);
  }
  return absl::OkStatus();
}

absl::Status CheckLimit(absl::string_view ops,
                        const devices::RateLimiterConfig& limit) {
  const std::pair<absl::string_view, const devices::TokenBucketConfig*>
      buckets[] = {{"bps", &limit.bandwidth}, {ops, &limit.operations}};
  for (const auto& [name, bucket] : buckets) {
    if (bucket->size == 0 && bucket->one_time_burst != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, "_burst: needs ", name, "="));
    }
  }
  return absl::OkStatus();
}

// What has nothing but limits.
absl::StatusOr<devices::RateLimiterConfig> ParseLimit(absl::string_view text,
                                                      absl::string_view ops) {
  devices::RateLimiterConfig limit;
  if (text.empty()) return limit;
  RETURN_IF_ERROR(Parts(text).ForEach(
      0, [&](const std::string& key, const std::string& value) {
        return TakeLimit(key, value, ops, limit);
      }));
  RETURN_IF_ERROR(CheckLimit(ops, limit));
  return limit;
}

// "7:8:9".
absl::Status TakeDescriptors(const std::string& key, const std::string& value,
                             std::vector<int>& to) {
  for (absl::string_view part : absl::StrSplit(value, ':')) {
    int fd = -1;
    if (!absl::SimpleAtoi(part, &fd) || fd < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          key, "=", value, ": expected descriptors, such as 7 or 7:8"));
    }
    to.push_back(fd);
  }
  return absl::OkStatus();
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
    } else {
      return TakeLimit(key, value, "iops", disk.limit);
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(parts.ForEach(1, take));
  RETURN_IF_ERROR(CheckLimit("iops", disk.limit));
  return disk;
}

absl::StatusOr<vmm::NetConfig> ParseNet(absl::string_view text) {
  vmm::NetConfig net;
  bool queues_given = false;
  auto take = [&](const std::string& key,
                  const std::string& value) -> absl::Status {
    if (key == "tap") return TakeText(key, value, net.tap);
    if (key == "fd") return TakeDescriptors(key, value, net.fds);
    if (key == "mac") return TakeText(key, value, net.mac);
    if (key == "queues") {
      queues_given = true;
      return TakeNumber(key, value, net.queues);
    }
    if (key == "id") return TakeText(key, value, net.id);
    return TakeLimit(key, value, "pps", net.rx_limit);
  };
  RETURN_IF_ERROR(Parts(text).ForEach(0, take));
  RETURN_IF_ERROR(CheckLimit("pps", net.rx_limit));
  if (!queues_given && !net.fds.empty()) {
    net.queues = static_cast<uint32_t>(net.fds.size());
  }
  net.tx_limit = net.rx_limit;
  return net;
}

absl::StatusOr<vmm::VsockConfig> ParseVsock(absl::string_view text) {
  vmm::VsockConfig vsock;
  auto take = [&](const std::string& key,
                  const std::string& value) -> absl::Status {
    if (key == "cid") return TakeNumber(key, value, vsock.cid);
    if (key == "path") return TakeText(key, value, vsock.path);
    return TakeLimit(key, value, "pps", vsock.rx_limit);
  };
  RETURN_IF_ERROR(Parts(text).ForEach(0, take));
  RETURN_IF_ERROR(CheckLimit("pps", vsock.rx_limit));
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

absl::StatusOr<vmm::RngConfig> ParseRng(absl::string_view text) {
  vmm::RngConfig rng;
  ASSIGN_OR_RETURN(rng.limit, ParseLimit(text, "ops"));
  return rng;
}

absl::StatusOr<vmm::ConsoleConfig> ParseConsoleLimits(absl::string_view text) {
  vmm::ConsoleConfig console;
  ASSIGN_OR_RETURN(console.tx_limit, ParseLimit(text, "ops"));
  return console;
}

absl::StatusOr<vmm::VirtioTransport> ParseVirtioTransport(
    absl::string_view text) {
  if (text == "pci") return vmm::VirtioTransport::kPci;
  if (text == "mmio") return vmm::VirtioTransport::kMmio;
  if (text == "mmio-fdt") return vmm::VirtioTransport::kMmioFdt;
  return absl::InvalidArgumentError("expected pci, mmio or mmio-fdt");
}

}  // namespace cloister::cli
