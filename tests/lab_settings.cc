// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/lab_settings.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace cloister::tests {

bool Soak() { return std::getenv("CLOISTER_SOAK") != nullptr; }

std::string GuestFile(absl::string_view flavour, absl::string_view what) {
  const std::string name = absl::StrCat("CLOISTER_GUEST_", flavour, "_", what);
  const char* path = std::getenv(name.c_str());
  return path == nullptr ? absl::StrCat("$", name, " is not set") : path;
}

}  // namespace cloister::tests
