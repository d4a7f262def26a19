// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BOOT_LINUX_LOADER_H_
#define CLOISTER_BOOT_LINUX_LOADER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/acpi.h"
#include "cloister/boot/e820.h"
#include "cloister/boot/launch_image.h"

namespace cloister::boot {

// What to boot. Paths are the user's: every error names the file or option.
struct LinuxLoadOptions {
  // An x86-64 bzImage (unpacked here, not in the guest) or ELF vmlinux.
  std::string kernel_path = {};
  // Empty: no initrd.
  std::string initrd_path = {};
  // Without a final NUL.
  std::string command_line = {};
  // What errors call it: the option that it came from.
  std::string command_line_name = "kernel command line";
  MemoryLayout memory = {};
  std::optional<AcpiOptions> acpi = {};
  // A flattened device tree for kernels with CONFIG_OF (SETUP_DTB); empty:
  // none. Linux reads it beside ACPI tables, too, but then has no interrupts
  // for what it describes.
  std::vector<uint8_t> device_tree = {};
};

// Reads the files and lays out a Linux guest for the 64-bit boot protocol
// (Documentation/arch/x86/boot.rst): kernel segments where the ELF file wants
// them; ACPI tables (in an e820 kAcpi range), boot_params and the command line
// above 1 MiB; the initrd as high as the kernel allows. Blocks on file I/O and
// decompression; touches no guest memory; any thread.
//
// Errors are one line. NotFound, PermissionDenied: a file cannot be opened.
// InvalidArgument: a file or an option is not acceptable. ResourceExhausted:
// the guest's RAM is too small. Unimplemented: a format that is not supported.
absl::StatusOr<LaunchImage> LoadLinux(const LinuxLoadOptions& options);

}  // namespace cloister::boot

#endif  // CLOISTER_BOOT_LINUX_LOADER_H_
