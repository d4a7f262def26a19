// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/backend_kind.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace cloister::confidential {

absl::string_view BackendKindName(BackendKind kind) {
  switch (kind) {
    case BackendKind::kOff:
      return "off";
    case BackendKind::kEmulated:
      return "emulated";
    case BackendKind::kSwProtected:
      return "sw-protected";
  }
  return "unknown";
}

absl::string_view BackendChoiceName(BackendChoice choice) {
  switch (choice) {
    case BackendChoice::kAuto:
      return "auto";
    case BackendChoice::kOff:
      return BackendKindName(BackendKind::kOff);
    case BackendChoice::kEmulated:
      return BackendKindName(BackendKind::kEmulated);
    case BackendChoice::kSwProtected:
      return BackendKindName(BackendKind::kSwProtected);
  }
  return "unknown";
}

absl::StatusOr<BackendChoice> ParseBackendChoice(absl::string_view name) {
  for (BackendChoice choice :
       {BackendChoice::kAuto, BackendChoice::kOff, BackendChoice::kEmulated,
        BackendChoice::kSwProtected}) {
    if (name == BackendChoiceName(choice)) return choice;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(name.substr(0, 64)),
                   "\" is none of off, auto, emulated, sw-protected"));
}

}  // namespace cloister::confidential
