// SPDX-License-Identifier: Apache-2.0
//
// Any file as a kernel: parsed, unpacked, and its pieces read.
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/kernel_image.h"
#include "cloister/boot/shared_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> copy;
  if (size != 0) copy.assign(data, data + size);
  cloister::boot::SharedBytes file(std::move(copy));
  absl::StatusOr<cloister::boot::KernelImage> kernel =
      cloister::boot::ParseKernel(file);
  if (!kernel.ok()) return 0;
  unsigned sum = 0;
  for (const auto& segment : kernel->elf.segments) {
    for (uint8_t byte : segment.data.span()) sum += byte;
  }
  volatile unsigned sink = sum;
  (void)sink;
  return 0;
}
