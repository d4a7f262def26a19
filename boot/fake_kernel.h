// SPDX-License-Identifier: Apache-2.0
//
// Builds small kernel files in memory (test only).
#ifndef CLOISTER_BOOT_FAKE_KERNEL_H_
#define CLOISTER_BOOT_FAKE_KERNEL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "cloister/boot/decompress.h"

namespace cloister::boot {

struct FakeSegment {
  uint64_t physical = 0;
  uint64_t virtual_address = 0;
  std::vector<uint8_t> data;
  uint64_t memory_size = 0;
};

// Two segments as Linux lays them out: 64 bytes of code at 16 MiB, linked at
// 0xffffffff81000000, and 32 bytes of data with BSS up to a page at 18 MiB.
std::vector<FakeSegment> LinuxLikeSegments();

// An x86-64 ELF executable whose program headers follow the ELF header.
std::vector<uint8_t> MakeElf(const std::vector<FakeSegment>& segments,
                             uint64_t entry);

// MakeElf with LinuxLikeSegments, entered at 16 MiB.
std::vector<uint8_t> MakeVmlinux();

// A bzImage of boot protocol 2.15 whose payload is `elf`, compressed and with
// its size appended as the kernel's build does it.
std::vector<uint8_t> MakeBzImage(std::optional<Compression> compression,
                                 absl::Span<const uint8_t> elf);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_FAKE_KERNEL_H_
