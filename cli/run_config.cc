// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/run_config.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/config_store.h"
#include "cloister/api/vm_config.h"
#include "cloister/base/status_macros.h"
#include "cloister/cli/config_file.h"
#include "cloister/cli/monitor_log.h"

namespace cloister::cli {
namespace {

// What --console says goes before the file, which goes before the default.
void ChooseConsole(const std::string& in_file,
                   const std::optional<vmm::ConsoleConfig>& in_options,
                   RunOptions* options) {
  if (options->console_given) {
    options->config.devices.console = in_options;
  } else {
    options->console = in_file == "virtio" ? ConsoleKind::kVirtio
                       : in_file == "none" ? ConsoleKind::kNone
                                           : ConsoleKind::kStdio;
  }
  // Who chooses in a program may leave the device to us.
  std::optional<vmm::ConsoleConfig>& device = options->config.devices.console;
  if (options->console != ConsoleKind::kVirtio) {
    device.reset();
  } else if (!device.has_value()) {
    device.emplace();
  }
}

absl::Status ApplyVm(const api::ConfigStore& store, RunOptions* options) {
  RETURN_IF_ERROR(store.CheckStart());
  const auto console = options->config.devices.console;
  ASSIGN_OR_RETURN(options->config,
                   api::VmConfigFromJson(store.json(), options->config.id));
  ChooseConsole(api::ConsoleOf(store.json()), console, options);
  return absl::OkStatus();
}

api::Json Rest(const api::ConfigStore& store) {
  api::Json rest = api::Json::object();
  for (const char* section : {"logger", "metrics", "serial"}) {
    if (store.json().contains(section)) rest[section] = store.json()[section];
  }
  return rest;
}

}  // namespace

absl::Status ApplyConfigFile(RunOptions* options, api::Json* rest) {
  const bool from_file = !options->config_file.empty();
  if (!from_file && rest == nullptr) return absl::OkStatus();
  std::string text = "{}";
  if (from_file) {
    ASSIGN_OR_RETURN(text, ReadConfigFile(options->config_file));
  }
  if (rest != nullptr) text = WithLogOptions(text, options->log);
  api::ConfigStore store;
  absl::Status status = NameLogOptions(store.Load(text), options->log);
  if (status.ok() && from_file) status = ApplyVm(store, options);
  if (status.ok() && rest != nullptr) *rest = Rest(store);
  if (status.ok() || !from_file) return status;
  return absl::Status(status.code(),
                      absl::StrCat("--config-file ", options->config_file, ": ",
                                   status.message()));
}

}  // namespace cloister::cli
