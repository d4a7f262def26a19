// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/registers.h"

#include <cstring>

namespace cloister::kvm {

uint32_t LapicState::Read(uint32_t offset) const {
  uint32_t value = 0;
  if (offset > bytes.size() - sizeof(value)) return 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

void LapicState::Write(uint32_t offset, uint32_t value) {
  if (offset > bytes.size() - sizeof(value)) return;
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
}

}  // namespace cloister::kvm
