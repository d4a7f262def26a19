// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/run_config.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/config_store.h"
#include "cloister/api/vm_config.h"
#include "cloister/base/status_macros.h"
#include "cloister/cli/config_file.h"

namespace cloister::cli {
namespace {

// What --console says goes before the file, which goes before the default.
void ChooseConsole(const std::string& in_file, RunOptions* options) {
  if (!options->console_given) {
    options->console = in_file == "virtio" ? ConsoleKind::kVirtio
                       : in_file == "none" ? ConsoleKind::kNone
                                           : ConsoleKind::kStdio;
  }
  options->config.devices.console.reset();
  if (options->console == ConsoleKind::kVirtio) {
    options->config.devices.console.emplace();
  }
}

}  // namespace

absl::Status ApplyConfigFile(RunOptions* options) {
  if (options->config_file.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::string text, ReadConfigFile(options->config_file));
  api::ConfigStore store;
  absl::Status status = store.Load(text);
  if (status.ok()) status = store.CheckStart();
  if (status.ok()) {
    auto config = api::VmConfigFromJson(store.json(), options->config.id);
    status = config.status();
    if (config.ok()) {
      options->config = *std::move(config);
      ChooseConsole(api::ConsoleOf(store.json()), options);
    }
  }
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("--config-file ", options->config_file, ": ",
                                   status.message()));
}

}  // namespace cloister::cli
