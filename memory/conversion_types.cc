// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_types.h"

namespace cloister::memory {

absl::string_view ConversionPhaseName(ConversionPhase phase) {
  switch (phase) {
    case ConversionPhase::kBuilding:
      return "building";
    case ConversionPhase::kLaunching:
      return "launching";
    case ConversionPhase::kRunning:
      return "running";
    case ConversionPhase::kStopped:
      return "stopped";
  }
  return "unknown";
}

}  // namespace cloister::memory
