// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_BOOT_ADVICE_H_
#define CLOISTER_VMM_BOOT_ADVICE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"

namespace cloister::vmm {

// The partition of a disk that a Linux system is likely to be in.
struct RootPartition {
  uint32_t number = 0;  // as in /dev/vda1
  uint64_t offset = 0;  // bytes from the disk's start
};

// How much of a disk's start FindRootPartition wants to see: the protective
// MBR, the header, and 128 entries.
inline constexpr size_t kGptHead = 512 * 34;

// Looks for a GUID partition table (UEFI 2.10, chapter 5) with sectors of 512
// bytes: the largest partition whose type is that of a Linux root or of Linux
// data. Whatever the bytes are, nothing more is believed of them than what the
// advice below says; nullopt if there is none.
std::optional<RootPartition> FindRootPartition(absl::Span<const uint8_t> head);

// What somebody has to do who gives a disk and no kernel: Cloister runs no
// firmware, so nothing in the guest looks for one. One line, which names the
// disk and the commands.
std::string MissingKernelAdvice(const std::string& disk);

// What somebody may have to do who gives a kernel, no initrd, and a disk with a
// GUID partition table: kernels of distributions find no partition without one.
// One line; nullopt for other disks, which a kernel may well mount by itself.
std::optional<std::string> MissingInitrdAdvice(const std::string& disk);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_BOOT_ADVICE_H_
