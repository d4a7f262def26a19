// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_SHIM_SHIM_IMAGE_H_
#define CLOISTER_BOOT_SHIM_SHIM_IMAGE_H_

#include <cstdint>

#include "absl/types/span.h"

namespace cloister::shim {

// The shim built from this package: guest code for the layout of layout.h, its
// digest slot zero. At most kImageMax bytes; lives as long as the program.
absl::Span<const uint8_t> ShimImage();

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_SHIM_IMAGE_H_
