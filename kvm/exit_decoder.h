// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_EXIT_DECODER_H_
#define CLOISTER_KVM_EXIT_DECODER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "cloister/kvm/exit.h"

namespace cloister::kvm {

// Decodes the exit that a run page (`size` bytes at `run_page`) holds. Each
// field is read once and the copy validated: Internal if a length, count or
// offset does not fit its bounds. Private to kvm/.
absl::StatusOr<Exit> DecodeExit(uint8_t* run_page, size_t size);

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_EXIT_DECODER_H_
