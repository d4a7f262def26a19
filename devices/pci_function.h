// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_PCI_FUNCTION_H_
#define CLOISTER_DEVICES_PCI_FUNCTION_H_

#include <cstdint>

#include "absl/types/span.h"

namespace cloister::devices {

// One function of a PCI bus, as its configuration space shows it. Called from
// any vCPU's thread, several at once.
class PciFunction {
 public:
  static constexpr uint32_t kConfigSize = 256;

  virtual ~PciFunction() = default;

  // 1, 2 or 4 bytes, little-endian, within one aligned dword of the 256 bytes.
  virtual void ReadPciConfig(uint32_t offset, absl::Span<uint8_t> data) = 0;
  virtual void WritePciConfig(uint32_t offset,
                              absl::Span<const uint8_t> data) = 0;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_PCI_FUNCTION_H_
