// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/vm_end.h"

namespace cloister::vmm {

absl::string_view VmEndName(VmEnd::Kind kind) {
  switch (kind) {
    case VmEnd::Kind::kPowerOff:
      return "power off";
    case VmEnd::Kind::kReset:
      return "reset";
    case VmEnd::Kind::kStopped:
      return "stopped";
    case VmEnd::Kind::kTripleFault:
      return "triple fault";
    case VmEnd::Kind::kNotVerified:
      return "launch not verified";
    case VmEnd::Kind::kConversion:
      return "conversion refused";
    case VmEnd::Kind::kInternalError:
      return "internal error";
  }
  return "unknown";
}

}  // namespace cloister::vmm
