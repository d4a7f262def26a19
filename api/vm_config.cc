// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/vm_config.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cloister/api/config_store.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/devices/rate_limiter.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/vmm/device_config.h"
#include "cloister/vmm/kernel_arguments.h"

namespace cloister::api {
namespace {

using memory::HugePages;
using memory::ImplicitPolicy;

HugePages HugePagesOf(const std::string& name) {
  if (name == "Transparent") return HugePages::kTransparent;
  if (name == "2M") return HugePages::kHugetlb2M;
  if (name == "1G") return HugePages::kHugetlb1G;
  return HugePages::kNone;
}

const char* NameOf(HugePages pages) {
  switch (pages) {
    case HugePages::kNone:
      return "None";
    case HugePages::kTransparent:
      return "Transparent";
    case HugePages::kHugetlb2M:
      return "2M";
    case HugePages::kHugetlb1G:
      return "1G";
  }
  return "None";
}

const char* NameOf(ImplicitPolicy policy) {
  switch (policy) {
    case ImplicitPolicy::kAllow:
      return "allow";
    case ImplicitPolicy::kCount:
      return "count";
    case ImplicitPolicy::kDeny:
      return "deny";
  }
  return "count";
}

const char* NameOf(vmm::VirtioTransport transport) {
  switch (transport) {
    case vmm::VirtioTransport::kPci:
      return "pci";
    case vmm::VirtioTransport::kMmio:
      return "mmio";
    case vmm::VirtioTransport::kMmioFdt:
      return "mmio-fdt";
  }
  return "pci";
}

// A guest that is told to look at no PCI finds its devices by ACPI, unless
// somebody says otherwise.
vmm::VirtioTransport TransportOf(const Json& machine,
                                 const std::string& command_line) {
  const std::string name =
      machine.value("virtio_transport",
                    vmm::HasArgument(command_line, "pci=off") ? "mmio" : "pci");
  if (name == "mmio") return vmm::VirtioTransport::kMmio;
  if (name == "mmio-fdt") return vmm::VirtioTransport::kMmioFdt;
  return vmm::VirtioTransport::kPci;
}

// The command line, with what Firecracker adds for the root device.
std::string CommandLine(const Json& config) {
  std::string line = config["boot-source"].value("boot_args", "");
  for (const Json& drive : config["drives"]) {
    if (!drive["is_root_device"].get<bool>()) continue;
    const std::string root =
        drive.contains("partuuid")
            ? absl::StrCat("PARTUUID=", drive["partuuid"].get<std::string>())
            : std::string("/dev/vda");
    absl::StrAppend(&line, line.empty() ? "" : " ", "root=", root,
                    drive["is_read_only"].get<bool>() ? " ro" : " rw");
  }
  return line;
}

absl::Status FillConfidential(const Json& json, vmm::ConfidentialConfig* out) {
  ASSIGN_OR_RETURN(out->backend, confidential::ParseBackendChoice(
                                     json["backend"].get<std::string>()));
  out->reports = json["conversion_reports"] == "fault"
                     ? vmm::ConversionReports::kFault
                     : vmm::ConversionReports::kHypercall;
  out->expected_digest = json.value("expected_digest", "");
  if (!json.contains("exchange_windows")) return absl::OkStatus();
  for (const Json& window : json["exchange_windows"]) {
    ASSIGN_OR_RETURN(memory::GuestRange range,
                     memory::GuestRange::CreatePageAligned(
                         memory::GuestAddress(window["gpa"].get<uint64_t>()),
                         window["len"].get<uint64_t>()));
    out->exchange_windows.push_back(range);
  }
  return absl::OkStatus();
}

devices::RateLimiterConfig LimitOf(const Json& device, const char* name) {
  devices::RateLimiterConfig limit;
  if (!device.contains(name)) return limit;
  const Json& json = device[name];
  if (json.contains("bandwidth"))
    limit.bandwidth = TokenBucketFromJson(json["bandwidth"]);
  if (json.contains("ops")) limit.operations = TokenBucketFromJson(json["ops"]);
  return limit;
}

vmm::DiskConfig DiskOf(const Json& drive) {
  vmm::DiskConfig disk;
  disk.id = drive["drive_id"].get<std::string>();
  disk.path = drive["path_on_host"].get<std::string>();
  disk.read_only = drive["is_read_only"].get<bool>();
  disk.direct = drive.value("direct", false);
  disk.serial = drive.value("serial", "");
  disk.limit = LimitOf(drive, "rate_limiter");
  return disk;
}

vmm::NetConfig NetOf(const Json& card) {
  vmm::NetConfig net;
  net.id = card["iface_id"].get<std::string>();
  net.tap = card["host_dev_name"].get<std::string>();
  net.mac = card.value("guest_mac", "");
  net.queues = card.value("queues", uint32_t{1});
  net.rx_limit = LimitOf(card, "rx_rate_limiter");
  net.tx_limit = LimitOf(card, "tx_rate_limiter");
  return net;
}

void FillDevices(const Json& config, vmm::DevicesConfig* devices) {
  for (const Json& drive : config["drives"]) {
    // The root device is the guest's first disk.
    const bool root = drive["is_root_device"].get<bool>();
    devices->disks.insert(root ? devices->disks.begin() : devices->disks.end(),
                          DiskOf(drive));
  }
  for (const Json& card : config["network-interfaces"]) {
    devices->nets.push_back(NetOf(card));
  }
  if (config.contains("vsock")) {
    devices->vsock.emplace();
    devices->vsock->cid = config["vsock"]["guest_cid"].get<uint64_t>();
    devices->vsock->path = config["vsock"]["uds_path"].get<std::string>();
    devices->vsock->rx_limit = LimitOf(config["vsock"], "rx_rate_limiter");
    devices->vsock->tx_limit = LimitOf(config["vsock"], "tx_rate_limiter");
  }
  if (config.contains("entropy")) {
    devices->rng.emplace();
    devices->rng->limit = LimitOf(config["entropy"], "rate_limiter");
  }
  if (!config.contains("balloon")) return;
  const Json& balloon = config["balloon"];
  devices->balloon.emplace();
  devices->balloon->target = balloon["amount_mib"].get<uint64_t>() << 20;
  devices->balloon->deflate_on_oom = balloon["deflate_on_oom"].get<bool>();
  devices->balloon->reporting = balloon.value("free_page_reporting", false);
  devices->balloon->stats_seconds =
      balloon.value("stats_polling_interval_s", uint32_t{0});
}

// The inverse, for GET /vm/config of a VM that options describe.
void ShowBucket(const devices::TokenBucketConfig& bucket, const char* name,
                Json* limit) {
  if (bucket.size == 0) return;
  Json& shown = (*limit)[name];
  shown = {{"size", bucket.size}, {"refill_time", bucket.refill_time.count()}};
  if (bucket.one_time_burst != 0) {
    shown["one_time_burst"] = bucket.one_time_burst;
  }
}

void ShowLimit(const devices::RateLimiterConfig& limit, const char* name,
               Json* device) {
  Json shown = Json::object();
  ShowBucket(limit.bandwidth, "bandwidth", &shown);
  ShowBucket(limit.operations, "ops", &shown);
  if (!shown.empty()) (*device)[name] = std::move(shown);
}

// The name of a tap, which for one that came as a descriptor only the kernel
// knows.
std::string TapName(const vmm::NetConfig& net) {
  if (!net.tap.empty()) return net.tap;
  if (net.fds.empty()) return "";
  struct ifreq request = {};
  if (::ioctl(net.fds[0], TUNGETIFF, &request) < 0) {
    return absl::StrCat("fd:", absl::StrJoin(net.fds, ":"));
  }
  request.ifr_name[IFNAMSIZ - 1] = '\0';
  return request.ifr_name;
}

Json ShownNet(const vmm::NetConfig& net, const std::string& id) {
  Json card = {{"iface_id", id}, {"host_dev_name", TapName(net)}};
  if (net.queues != 1) card["queues"] = net.queues;
  if (!net.mac.empty()) card["guest_mac"] = net.mac;
  ShowLimit(net.rx_limit, "rx_rate_limiter", &card);
  ShowLimit(net.tx_limit, "tx_rate_limiter", &card);
  return card;
}

void ShowDevices(const vmm::DevicesConfig& devices, Json* json) {
  for (size_t i = 0; i < devices.disks.size(); ++i) {
    const vmm::DiskConfig& disk = devices.disks[i];
    Json drive = {{"drive_id", vmm::DiskId(devices, i)},
                  {"path_on_host", disk.path},
                  {"is_root_device", false},
                  {"is_read_only", disk.read_only}};
    if (disk.direct) drive["direct"] = true;
    if (!disk.serial.empty()) drive["serial"] = disk.serial;
    ShowLimit(disk.limit, "rate_limiter", &drive);
    (*json)["drives"].push_back(std::move(drive));
  }
  for (size_t i = 0; i < devices.nets.size(); ++i) {
    (*json)["network-interfaces"].push_back(
        ShownNet(devices.nets[i], vmm::NetId(devices, i)));
  }
  if (devices.vsock.has_value()) {
    Json& vsock = (*json)["vsock"];
    vsock = {{"guest_cid", devices.vsock->cid},
             {"uds_path", devices.vsock->path}};
    ShowLimit(devices.vsock->rx_limit, "rx_rate_limiter", &vsock);
    ShowLimit(devices.vsock->tx_limit, "tx_rate_limiter", &vsock);
  }
  if (devices.rng.has_value()) {
    (*json)["entropy"] = Json::object();
    ShowLimit(devices.rng->limit, "rate_limiter", &(*json)["entropy"]);
  }
  if (devices.balloon.has_value()) {
    (*json)["balloon"] = {
        {"amount_mib", devices.balloon->target >> 20},
        {"deflate_on_oom", devices.balloon->deflate_on_oom},
        {"free_page_reporting", devices.balloon->reporting},
        {"stats_polling_interval_s", devices.balloon->stats_seconds}};
  }
}

}  // namespace

devices::TokenBucketConfig TokenBucketFromJson(const Json& json) {
  devices::TokenBucketConfig bucket;
  bucket.size = json["size"].get<uint64_t>();
  bucket.refill_time =
      std::chrono::milliseconds(json["refill_time"].get<int64_t>());
  bucket.one_time_burst = json.value("one_time_burst", uint64_t{0});
  if (bucket.size == 0 || bucket.refill_time.count() == 0) return {};
  return bucket;
}

memory::ConversionPolicy PolicyFromJson(const Json& json) {
  memory::ConversionPolicy policy;
  const std::string implicit = json.value("implicit", "count");
  policy.implicit = implicit == "allow"  ? ImplicitPolicy::kAllow
                    : implicit == "deny" ? ImplicitPolicy::kDeny
                                         : ImplicitPolicy::kCount;
  policy.shared_limit = json.value("shared_limit", uint64_t{UINT64_MAX});
  policy.per_second = json.value("per_second", uint64_t{0});
  policy.burst = json.value("burst", uint64_t{64});
  return policy;
}

std::string ConsoleOf(const Json& config) {
  return config["machine-config"].value("console", "serial");
}

absl::StatusOr<vmm::VmConfig> VmConfigFromJson(const Json& config,
                                               const std::string& id) {
  vmm::VmConfig vm;
  vm.id = id;
  const Json& boot = config["boot-source"];
  vm.kernel.path = boot["kernel_image_path"].get<std::string>();
  vm.kernel.initrd_path = boot.value("initrd_path", "");
  vm.kernel.command_line = CommandLine(config);
  const Json& machine = config["machine-config"];
  vm.cpus.count = machine["vcpu_count"].get<uint32_t>();
  vm.cpus.threads_per_core = machine["smt"].get<bool>() ? 2 : 1;
  vm.memory.bytes = machine["mem_size_mib"].get<uint64_t>() << 20;
  vm.memory.huge_pages = HugePagesOf(machine["huge_pages"].get<std::string>());
  RETURN_IF_ERROR(FillConfidential(config["confidential"], &vm.confidential));
  vm.confidential.policy = PolicyFromJson(config["memory-policy"]);
  FillDevices(config, &vm.devices);
  vm.devices.transport = TransportOf(machine, vm.kernel.command_line);
  if (ConsoleOf(config) == "virtio") {
    vm.devices.console.emplace();
    vm.devices.console->tx_limit = LimitOf(machine, "console_rate_limiter");
  } else if (machine.contains("console_rate_limiter")) {
    return absl::InvalidArgumentError(
        "machine-config: console_rate_limiter: needs \"console\": \"virtio\"");
  }
  return vm;
}

std::string ConfigText(const vmm::VmConfig& config, absl::string_view console) {
  Json json;
  json["boot-source"] = {{"kernel_image_path", config.kernel.path}};
  if (!config.kernel.initrd_path.empty()) {
    json["boot-source"]["initrd_path"] = config.kernel.initrd_path;
  }
  if (!config.kernel.command_line.empty()) {
    json["boot-source"]["boot_args"] = config.kernel.command_line;
  }
  json["machine-config"] = {
      {"vcpu_count", config.cpus.count},
      {"mem_size_mib", config.memory.bytes >> 20},
      {"smt", config.cpus.threads_per_core == 2},
      {"huge_pages", NameOf(config.memory.huge_pages)},
      {"console", std::string(console)},
      {"virtio_transport", NameOf(config.devices.transport)}};
  if (config.devices.console.has_value()) {
    ShowLimit(config.devices.console->tx_limit, "console_rate_limiter",
              &json["machine-config"]);
  }
  const vmm::ConfidentialConfig& confidential = config.confidential;
  json["confidential"] = {
      {"backend",
       std::string(confidential::BackendChoiceName(confidential.backend))},
      {"conversion_reports",
       confidential.reports == vmm::ConversionReports::kFault ? "fault"
                                                              : "hypercall"}};
  if (!confidential.expected_digest.empty()) {
    json["confidential"]["expected_digest"] = confidential.expected_digest;
  }
  for (const memory::GuestRange& window : confidential.exchange_windows) {
    json["confidential"]["exchange_windows"].push_back(
        {{"gpa", window.start().value()}, {"len", window.size()}});
  }
  const memory::ConversionPolicy& policy = confidential.policy;
  json["memory-policy"] = {{"implicit", NameOf(policy.implicit)},
                           {"per_second", policy.per_second},
                           {"burst", policy.burst}};
  if (policy.shared_limit != UINT64_MAX) {
    json["memory-policy"]["shared_limit"] = policy.shared_limit;
  }
  ShowDevices(config.devices, &json);
  return JsonText(json);
}

}  // namespace cloister::api
