// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/memory_region.h"

#include "absl/strings/str_cat.h"

namespace cloister::kvm {

std::string MemoryRegion::ToString() const {
  std::string text = absl::StrCat("slot ", slot.value(), " at ", gpa.ToString(),
                                  " size 0x", absl::Hex(size));
  if (readonly) absl::StrAppend(&text, " readonly");
  if (log_dirty) absl::StrAppend(&text, " log-dirty");
  if (guest_memfd.has_value()) {
    absl::StrAppend(&text, " guest_memfd ", guest_memfd->fd, "+0x",
                    absl::Hex(guest_memfd->offset));
  }
  return text;
}

}  // namespace cloister::kvm
