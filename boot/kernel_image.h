// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_KERNEL_IMAGE_H_
#define CLOISTER_BOOT_KERNEL_IMAGE_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cloister/boot/bzimage.h"
#include "cloister/boot/elf.h"
#include "cloister/boot/shared_bytes.h"

namespace cloister::boot {

// A kernel, whatever kind of file it came in.
struct KernelImage {
  ElfKernel elf;
  // From a bzImage; a plain vmlinux has none.
  std::optional<SetupHeader> setup_header;
  // "6.1.0-18-cloud-amd64 (...)"; empty for a plain vmlinux.
  std::string version;
};

// Reads a bzImage, which it unpacks, or an ELF vmlinux. InvalidArgument or
// Unimplemented, in one line that says what `file` seems to be (a kernel for
// another architecture, an EFI program, an initrd, ...), for anything else.
absl::StatusOr<KernelImage> ParseKernel(const SharedBytes& file);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_KERNEL_IMAGE_H_
