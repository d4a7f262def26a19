// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/kernel_arguments.h"

#include <utility>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace cloister::vmm {

bool HasArgument(absl::string_view arguments, absl::string_view word) {
  for (absl::string_view part :
       absl::StrSplit(arguments, absl::ByAnyChar(" \t\n"), absl::SkipEmpty())) {
    if (part == word) return true;
    // "swiotlb=65536,noforce" and "pci=off,nomsi" name it in a list.
    const std::pair<absl::string_view, absl::string_view> wanted =
        absl::StrSplit(word, absl::MaxSplits('=', 1));
    if (!absl::ConsumePrefix(&part, wanted.first) ||
        !absl::ConsumePrefix(&part, "=")) {
      continue;
    }
    for (absl::string_view value : absl::StrSplit(part, ',')) {
      if (value == wanted.second) return true;
    }
  }
  return false;
}

}  // namespace cloister::vmm
