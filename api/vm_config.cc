// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/vm_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/confidential/backend_kind.h"
#include "cloister/memory/conversion_policy.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory_mapping.h"

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

void FillPolicy(const Json& policy, memory::ConversionPolicy* out) {
  const std::string implicit = policy.value("implicit", "count");
  out->implicit = implicit == "allow"  ? ImplicitPolicy::kAllow
                  : implicit == "deny" ? ImplicitPolicy::kDeny
                                       : ImplicitPolicy::kCount;
  out->shared_limit = policy.value("shared_limit", uint64_t{UINT64_MAX});
  out->per_second = policy.value("per_second", uint64_t{0});
  out->burst = policy.value("burst", uint64_t{64});
}

absl::Status FillConfidential(const Json& json, vmm::ConfidentialConfig* out) {
  ASSIGN_OR_RETURN(out->backend, confidential::ParseBackendChoice(
                                     json["backend"].get<std::string>()));
  out->reports = json["conversion_reports"] == "fault"
                     ? vmm::ConversionReports::kFault
                     : vmm::ConversionReports::kHypercall;
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

absl::Status CheckDevices(const Json& config) {
  for (const char* section :
       {"drives", "network-interfaces", "vsock", "entropy", "balloon"}) {
    const bool wanted =
        config.contains(section) &&
        (config[section].is_object() || !config[section].empty());
    if (wanted) {
      return absl::UnimplementedError(absl::StrCat(
          section, ": this build's monitor has no such device yet"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

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
  FillPolicy(config["memory-policy"], &vm.confidential.policy);
  RETURN_IF_ERROR(CheckDevices(config));
  return vm;
}

std::string ConfigText(const vmm::VmConfig& config) {
  Json json;
  json["boot-source"] = {{"kernel_image_path", config.kernel.path}};
  if (!config.kernel.initrd_path.empty()) {
    json["boot-source"]["initrd_path"] = config.kernel.initrd_path;
  }
  if (!config.kernel.command_line.empty()) {
    json["boot-source"]["boot_args"] = config.kernel.command_line;
  }
  json["machine-config"] = {{"vcpu_count", config.cpus.count},
                            {"mem_size_mib", config.memory.bytes >> 20},
                            {"smt", config.cpus.threads_per_core == 2},
                            {"huge_pages", NameOf(config.memory.huge_pages)}};
  const vmm::ConfidentialConfig& confidential = config.confidential;
  json["confidential"] = {
      {"backend",
       std::string(confidential::BackendChoiceName(confidential.backend))},
      {"conversion_reports",
       confidential.reports == vmm::ConversionReports::kFault ? "fault"
                                                              : "hypercall"}};
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
  return JsonText(json);
}

}  // namespace cloister::api
