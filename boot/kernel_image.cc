// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/kernel_image.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/decompress.h"

namespace cloister::boot {
namespace {

bool HasAt(const SharedBytes& file, size_t offset, absl::string_view magic) {
  std::optional<SharedBytes> part = file.Slice(offset, magic.size());
  return part && std::memcmp(part->data(), magic.data(), magic.size()) == 0;
}

// What a file that is neither a bzImage nor ELF is, as far as one can tell.
absl::Status Explain(const SharedBytes& file) {
  // Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
  if (HasAt(file, 56, "ARM\x64")) {
    return absl::InvalidArgumentError(
        "wrong architecture: an arm64 kernel image; the guest is x86-64");
  }
  if (HasAt(file, 56, "RSC\x05") || HasAt(file, 48, "RISCV")) {
    return absl::InvalidArgumentError(
        "wrong architecture: a RISC-V kernel image; the guest is x86-64");
  }
  if (HasAt(file, 0, "MZ") && HasAt(file, 4, "zimg")) {
    return absl::InvalidArgumentError(
        "an EFI zboot image, not an x86-64 bzImage or ELF vmlinux");
  }
  if (HasAt(file, 0, "MZ")) {
    return absl::InvalidArgumentError(
        "an EFI program, not a bzImage (or one that is truncated) or ELF "
        "vmlinux");
  }
  if (HasAt(file, 0, "07070")) {
    return absl::InvalidArgumentError(
        "a cpio archive (an initrd?), not a bzImage or ELF vmlinux");
  }
  if (std::optional<Compression> compression = DetectCompression(file.span())) {
    return absl::InvalidArgumentError(absl::StrCat(
        CompressionName(*compression),
        "-compressed data (an initrd? a compressed vmlinux must be unpacked "
        "first), not a bzImage or ELF vmlinux"));
  }
  return absl::InvalidArgumentError("not a bzImage or ELF vmlinux");
}

}  // namespace

absl::StatusOr<KernelImage> ParseKernel(const SharedBytes& file) {
  KernelImage kernel;
  if (HasAt(file, 0,
            "\x7f"
            "ELF")) {
    ASSIGN_OR_RETURN(kernel.elf, ParseElfKernel(file));
    return kernel;
  }
  if (!BzImage::Detect(file)) return Explain(file);
  ASSIGN_OR_RETURN(BzImage image, BzImage::Parse(file));
  ASSIGN_OR_RETURN(SharedBytes unpacked, image.Unpack());
  ASSIGN_OR_RETURN(kernel.elf, ParseElfKernel(unpacked));
  kernel.setup_header = image.header();
  kernel.version = image.version();
  return kernel;
}

}  // namespace cloister::boot
