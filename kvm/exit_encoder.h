// SPDX-License-Identifier: Apache-2.0
//
// Test only.
#ifndef CLOISTER_KVM_EXIT_ENCODER_H_
#define CLOISTER_KVM_EXIT_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cloister/kvm/exit.h"

namespace cloister::kvm {

// Where, in a run page, user space leaves its answer to an exit.
struct AnswerArea {
  size_t offset = 0;
  size_t size = 0;  // 0: no answer is expected
};

// Writes into a run page what KVM would for `exit`: the inverse of DecodeExit.
// Pointers in `exit` are ignored. `data` is what the guest wrote (IoExit out,
// MmioExit write); it is cut or padded with zeros to the exit's length. Port
// data goes to `io_offset`.
AnswerArea EncodeExit(const Exit& exit, const std::vector<uint8_t>& data,
                      size_t io_offset, uint8_t* run_page);

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_EXIT_ENCODER_H_
