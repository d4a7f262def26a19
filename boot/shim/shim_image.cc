// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/shim_image.h"

namespace cloister::shim {
namespace {

constexpr uint8_t kImage[] = {
#include "cloister/boot/shim/shim_bytes.inc"
};

}  // namespace

absl::Span<const uint8_t> ShimImage() { return kImage; }

}  // namespace cloister::shim
