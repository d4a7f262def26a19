// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/config_store.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cloister/api/schema_objects.h"
#include "cloister/api/validate.h"
#include "cloister/base/status_macros.h"
#include "cloister/vmm/kernel_arguments.h"

namespace cloister::api {
namespace {

constexpr size_t kMaxDevicesOfAKind = 64;
constexpr uint64_t kPage = 4096;

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

// The member of the store that an endpoint's bodies go to: its path without
// the slash and the id.
std::string SectionOf(const Endpoint& endpoint) {
  absl::string_view path = endpoint.path.substr(1);
  path = path.substr(0, path.find("/{"));
  if (path == "memory/policy") return "memory-policy";
  return std::string(path);
}

absl::Status CheckMachine(const Json& machine) {
  const uint64_t memory = machine["mem_size_mib"].get<uint64_t>();
  const std::string pages = machine["huge_pages"].get<std::string>();
  if (machine["smt"].get<bool>() &&
      machine["vcpu_count"].get<uint64_t>() % 2 != 0) {
    return Wrong("vcpu_count: with smt it must be even");
  }
  if ((pages == "2M" && memory % 2 != 0) ||
      (pages == "1G" && memory % 1024 != 0)) {
    return Wrong(absl::StrCat("mem_size_mib: not a multiple of the ", pages,
                              " pages of huge_pages"));
  }
  return absl::OkStatus();
}

absl::Status CheckMac(const std::string& text) {
  std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  bool good = parts.size() == 6;
  for (absl::string_view part : parts) {
    good = good && part.size() == 2 && absl::ascii_isxdigit(part[0]) &&
           absl::ascii_isxdigit(part[1]);
  }
  if (!good) return Wrong("guest_mac: expected six hexadecimal bytes");
  uint32_t first = 0;
  if (absl::SimpleHexAtoi(parts[0], &first) && (first & 1) != 0) {
    return Wrong("guest_mac: a multicast address");
  }
  return absl::OkStatus();
}

absl::Status CheckWindows(const Json& windows) {
  uint64_t end = 0;
  for (const Json& window : windows) {
    const uint64_t gpa = window["gpa"].get<uint64_t>();
    const uint64_t size = window["len"].get<uint64_t>();
    if (gpa % kPage != 0 || size % kPage != 0 || size == 0 ||
        size > UINT64_MAX - gpa) {
      return Wrong("exchange_windows: gpa and len must be multiples of 4096");
    }
    if (gpa < end) {
      return Wrong("exchange_windows: must ascend and not overlap");
    }
    end = gpa + size;
  }
  return absl::OkStatus();
}

absl::Status CheckConfidential(const Json& confidential) {
  if (confidential.contains("expected_digest")) {
    for (char c : confidential["expected_digest"].get<std::string>()) {
      if (!absl::ascii_isxdigit(c)) {
        return Wrong("expected_digest: expected 64 hexadecimal digits");
      }
    }
  }
  if (confidential.contains("exchange_windows")) {
    return CheckWindows(confidential["exchange_windows"]);
  }
  return absl::OkStatus();
}

absl::Status CheckPolicy(const Json& policy) {
  if (policy.value("shared_limit", uint64_t{0}) % kPage != 0) {
    return Wrong("shared_limit: not a multiple of 4096");
  }
  return absl::OkStatus();
}

// Rules between fields of one object.
absl::Status CheckObject(absl::string_view section, const Json& value) {
  if (section == "machine-config") return CheckMachine(value);
  if (section == "confidential") return CheckConfidential(value);
  if (section == "memory-policy") return CheckPolicy(value);
  if (section == "network-interfaces" && value.contains("guest_mac")) {
    return CheckMac(value["guest_mac"].get<std::string>());
  }
  return absl::OkStatus();
}

// Rules between a device and others of its list.
absl::Status CheckAmongOthers(absl::string_view section, const Json& list,
                              const Json& value, const std::string& id_field) {
  size_t others = 0;
  for (const Json& other : list) {
    if (other[id_field] == value[id_field]) continue;
    ++others;
    if (section == "drives" && other["is_root_device"].get<bool>() &&
        value["is_root_device"].get<bool>()) {
      return Wrong(absl::StrCat("is_root_device: drive ",
                                other[id_field].get<std::string>(),
                                " is the root device already"));
    }
    if (section == "network-interfaces" &&
        other["host_dev_name"] == value["host_dev_name"]) {
      return Wrong(absl::StrCat("host_dev_name: interface ",
                                other[id_field].get<std::string>(),
                                " has it already"));
    }
  }
  if (others >= kMaxDevicesOfAKind) {
    return Wrong(absl::StrCat(section, ": more than ", kMaxDevicesOfAKind));
  }
  return absl::OkStatus();
}

// The name of the field that repeats the path's id; empty if there is none.
std::string IdField(const Endpoint& endpoint) {
  const size_t brace = endpoint.path.find('{');
  if (brace == absl::string_view::npos) return "";
  return std::string(absl::StripSuffix(endpoint.path.substr(brace + 1), "}"));
}

absl::Status CheckId(const std::string& id) {
  for (char c : id) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '-') {
      return Wrong("the id may have letters, digits, \"_\" and \"-\"");
    }
  }
  return absl::OkStatus();
}

absl::Status PutInList(absl::string_view section, Json* list, Json value,
                       const std::string& id_field, absl::string_view id) {
  if (value[id_field].get_ref<const std::string&>() != id) {
    return Wrong(absl::StrCat(id_field, ": differs from the one in the path"));
  }
  RETURN_IF_ERROR(CheckId(std::string(id)));
  RETURN_IF_ERROR(CheckAmongOthers(section, *list, value, id_field));
  for (Json& other : *list) {
    if (other[id_field] == value[id_field]) {
      other = std::move(value);
      return absl::OkStatus();
    }
  }
  list->push_back(std::move(value));
  return absl::OkStatus();
}

// Takes over the members of `change`; buckets one by one in a rate limiter.
void Merge(const Json& change, Json* device) {
  for (const auto& [name, value] : change.items()) {
    if (value.is_object()) {
      (*device)[name].update(value);
    } else {
      (*device)[name] = value;
    }
  }
}

const Endpoint* PutOf(absl::string_view section) {
  for (const Endpoint& endpoint : Endpoints()) {
    const bool sets = endpoint.operation == Operation::kPatchPolicy ||
                      (endpoint.method == Method::kPut &&
                       endpoint.when == When::kBeforeStart);
    if (sets && endpoint.group != Group::kAbsent &&
        SectionOf(endpoint) == section) {
      return &endpoint;
    }
  }
  return nullptr;
}

}  // namespace

ConfigStore::ConfigStore() : json_(std::make_shared<Json>(Json::object())) {
  Json& json = *json_;
  json["machine-config"] = Json::object();
  AddDefaults(kMachineConfigObject, &json["machine-config"]);
  json["confidential"] = Json::object();
  AddDefaults(kConfidentialObject, &json["confidential"]);
  json["memory-policy"] = {
      {"implicit", "count"}, {"per_second", 0}, {"burst", 64}};
  json["drives"] = Json::array();
  json["network-interfaces"] = Json::array();
}

absl::Status ConfigStore::Apply(const Endpoint& endpoint, absl::string_view id,
                                Json value) {
  const std::string section = SectionOf(endpoint);
  if (endpoint.method == Method::kPatch) {
    if (value.empty()) return Wrong("nothing to change");
    if (endpoint.operation == Operation::kPatchPolicy) {
      RETURN_IF_ERROR(TakeWindows(&value));
    }
    Json whole = (*json_)[section];
    whole.update(value);
    value = std::move(whole);
  }
  const Object& object = endpoint.operation == Operation::kPatchMachineConfig
                             ? kMachineConfigObject
                             : *endpoint.body;
  AddDefaults(object, &value);
  Json policy = (*json_)["memory-policy"];
  if (endpoint.operation == Operation::kPutConfidential) {
    RETURN_IF_ERROR(TakePolicy(&value, &policy));
  }
  RETURN_IF_ERROR(CheckObject(section, value));
  if (endpoint.operation == Operation::kPutConfidential) {
    (*json_)["memory-policy"] = std::move(policy);
  }
  const std::string id_field = IdField(endpoint);
  if (!id_field.empty()) {
    return PutInList(section, &(*json_)[section], std::move(value), id_field,
                     id);
  }
  (*json_)[section] = std::move(value);
  return absl::OkStatus();
}

// It has a place of its own, where PATCH /memory/policy finds it.
absl::Status ConfigStore::TakePolicy(Json* confidential, Json* policy) {
  auto found = confidential->find("policy");
  if (found == confidential->end()) return absl::OkStatus();
  Json change = std::move(*found);
  confidential->erase(found);
  auto windows = change.find("exchange_windows");
  if (windows != change.end()) {
    if (confidential->contains("exchange_windows")) {
      return Wrong(
          "policy: exchange_windows: beside the policy's own; leave "
          "one of them out");
    }
    (*confidential)["exchange_windows"] = std::move(*windows);
    change.erase(windows);
  }
  policy->update(change);
  const absl::Status status = CheckPolicy(*policy);
  return status.ok() ? status
                     : Wrong(absl::StrCat("policy: ", status.message()));
}

// They are a part of what is launched.
absl::Status ConfigStore::TakeWindows(Json* policy) {
  if (!policy->contains("exchange_windows")) return absl::OkStatus();
  RETURN_IF_ERROR(CheckPolicy(*policy));
  RETURN_IF_ERROR(CheckWindows((*policy)["exchange_windows"]));
  (*json_)["confidential"]["exchange_windows"] = (*policy)["exchange_windows"];
  policy->erase("exchange_windows");
  return absl::OkStatus();
}

Json ConfigStore::Shown() const {
  Json shown = *json_;
  for (auto& [section, value] : shown.items()) {
    const Endpoint* endpoint = PutOf(section);
    if (endpoint == nullptr) continue;
    ShowAddresses(*endpoint->body, &value);
    if (!value.is_array()) continue;
    for (Json& device : value) ShowAddresses(*endpoint->body, &device);
  }
  return shown;
}

Json ConfigStore::Policy() const {
  Json policy = (*json_)["memory-policy"];
  const Json& confidential = (*json_)["confidential"];
  policy["exchange_windows"] = confidential.contains("exchange_windows")
                                   ? confidential["exchange_windows"]
                                   : Json::array();
  ShowAddresses(kPolicyObject, &policy);
  return policy;
}

Json ConfigStore::Confidential() const {
  Json confidential = (*json_)["confidential"];
  confidential["policy"] = (*json_)["memory-policy"];
  ShowAddresses(kConfidentialObject, &confidential);
  return confidential;
}

absl::StatusOr<Json> ConfigStore::ChangedPolicy(const Json& change) const {
  if (change.empty()) return Wrong("nothing to change");
  if (change.contains("exchange_windows")) {
    return absl::FailedPreconditionError(
        "exchange_windows: only allowed before the VM is started");
  }
  Json policy = (*json_)["memory-policy"];
  policy.update(change);
  RETURN_IF_ERROR(CheckPolicy(policy));
  return policy;
}

void ConfigStore::NotePolicy(Json policy) {
  (*json_)["memory-policy"] = std::move(policy);
}

void ConfigStore::NoteChange(const Endpoint& endpoint, absl::string_view id,
                             const Json& change) {
  const std::string section = SectionOf(endpoint);
  const std::string id_field = IdField(endpoint);
  if (id_field.empty()) {
    // "balloon/statistics" is a part of the balloon.
    const std::string device = section.substr(0, section.find('/'));
    if (json_->contains(device)) Merge(change, &(*json_)[device]);
    return;
  }
  for (Json& device : (*json_)[section]) {
    if (device[id_field].get_ref<const std::string&>() == id) {
      Merge(change, &device);
    }
  }
}

absl::Status ConfigStore::LoadSection(absl::string_view section, Json value) {
  const Endpoint* endpoint = PutOf(section);
  if (endpoint == nullptr) {
    // Firecracker's exports have them, empty.
    const bool harmless = (section == "pmem" || section == "mmds-config" ||
                           section == "memory-hotplug") &&
                          (value.is_null() || value.empty());
    return harmless ? absl::OkStatus() : Wrong("no such section");
  }
  if (value.is_null()) return absl::OkStatus();
  const std::string id_field = IdField(*endpoint);
  if (id_field.empty()) {
    RETURN_IF_ERROR(ValidateObject(*endpoint->body, &value));
    return Apply(*endpoint, "", std::move(value));
  }
  if (!value.is_array()) return Wrong("expected a list");
  for (Json& element : value) {
    RETURN_IF_ERROR(ValidateObject(*endpoint->body, &element));
    const std::string id = element[id_field].get<std::string>();
    RETURN_IF_ERROR(Apply(*endpoint, id, std::move(element)));
  }
  return absl::OkStatus();
}

absl::Status ConfigStore::Load(absl::string_view text) {
  ASSIGN_OR_RETURN(Json json, ParseJson(text));
  if (!json.is_object()) return Wrong("expected an object");
  for (auto& [section, value] : json.items()) {
    absl::Status status = LoadSection(section, std::move(value));
    if (!status.ok()) {
      return Wrong(
          absl::StrCat(absl::CHexEscape(section), ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status ConfigStore::CheckStart() const {
  const Json& json = *json_;
  if (!json.contains("boot-source")) {
    return absl::FailedPreconditionError(
        "there is nothing to boot: PUT /boot-source first");
  }
  if (json.contains("serial") && json["serial"].contains("rate_limiter") &&
      !json["serial"].contains("serial_out_path")) {
    return Wrong("rate_limiter of /serial: only with serial_out_path");
  }
  const std::string arguments = json["boot-source"].value("boot_args", "");
  const std::string transport =
      json["machine-config"].value("virtio_transport", "");
  if (transport == "pci" && vmm::HasArgument(arguments, "pci=off")) {
    return Wrong(
        "virtio_transport: pci, but boot_args has pci=off; leave one of them "
        "out");
  }
  if (json["confidential"]["backend"] == "off") return absl::OkStatus();
  if (vmm::HasArgument(arguments, "swiotlb=noforce")) {
    return Wrong(
        "boot_args: swiotlb=noforce leaves a confidential guest no memory that "
        "devices may use");
  }
  const bool devices = !json["drives"].empty() ||
                       !json["network-interfaces"].empty() ||
                       json.contains("vsock") || json.contains("entropy") ||
                       json.contains("balloon") ||
                       json["machine-config"].value("console", "") == "virtio";
  // Who names a transport has been told what it needs.
  if (devices && transport.empty() && vmm::HasArgument(arguments, "pci=off")) {
    return Wrong(
        "boot_args: pci=off leaves a confidential guest without its devices, "
        "for it reaches none by MMIO; leave the argument out, or ask for no "
        "private memory: PUT /confidential {\"backend\": \"off\"}");
  }
  return absl::OkStatus();
}

}  // namespace cloister::api
