// SPDX-License-Identifier: Apache-2.0
//
// Any file as an ELF kernel: whatever is accepted must be consistent.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include "cloister/boot/elf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using cloister::boot::ElfSegment;
  std::vector<uint8_t> copy;
  if (size != 0) copy.assign(data, data + size);
  const uint8_t* begin = copy.data();
  cloister::boot::SharedBytes file(std::move(copy));
  auto kernel = cloister::boot::ParseElfKernel(file);
  if (!kernel.ok()) return 0;
  bool entry_loaded = false;
  uint64_t free_from = 0;
  for (const ElfSegment& segment : kernel->segments) {
    size_t length = segment.data.size();
    if (segment.memory_size == 0 || segment.memory_size < length ||
        segment.gpa.value() < free_from) {
      std::abort();
    }
    if (length > 0 && (segment.data.data() < begin ||
                       segment.data.data() + length > begin + size)) {
      std::abort();
    }
    std::optional<uint64_t> offset = kernel->entry.OffsetFrom(segment.gpa);
    entry_loaded = entry_loaded || (offset && *offset < length);
    // Only the last segment can end where the address space does.
    free_from = segment.gpa.value() + segment.memory_size;
    if (free_from == 0 && &segment != &kernel->segments.back()) std::abort();
  }
  if (!entry_loaded) std::abort();
  return 0;
}
