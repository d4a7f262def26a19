// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_SHIM_HANDOVER_WRITER_H_
#define CLOISTER_BOOT_SHIM_HANDOVER_WRITER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/shim/handover.h"

namespace cloister::shim {

// The device tree that ReadHandover() reads as `handover`. Does not judge the
// values. InvalidArgument if it would be larger than kHandoverMax or the counts
// are.
absl::StatusOr<std::vector<uint8_t>> WriteHandover(const Handover& handover);

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_HANDOVER_WRITER_H_
