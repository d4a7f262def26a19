// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_ELF_H_
#define CLOISTER_BOOT_ELF_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/shared_bytes.h"
#include "cloister/memory/guest_address.h"

namespace cloister::boot {

// One PT_LOAD segment at its physical address: `data`, then zeroes up to
// `memory_size`, which is not 0 and not less than the data.
struct ElfSegment {
  memory::GuestAddress gpa;
  SharedBytes data;
  uint64_t memory_size = 0;
};

struct ElfKernel {
  // Ascending, disjoint; none wraps.
  std::vector<ElfSegment> segments;
  // Physical; inside the data of a segment.
  memory::GuestAddress entry;
};

// Reads the ELF image of an x86-64 kernel (System V ABI; AMD64 psABI): a
// little-endian ELF64 executable whose program headers give physical addresses.
// The entry point may be physical, as Linux has it, or virtual. The segments
// share ownership of `file`; what follows the image in it is ignored.
// InvalidArgument, in one line, for anything else, programs that are no kernel
// included.
absl::StatusOr<ElfKernel> ParseElfKernel(const SharedBytes& file);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_ELF_H_
